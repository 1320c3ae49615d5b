//go:build linux

package load

import (
	"flag"
	"testing"

	"sysmgr/internal/load/rig"
)

func TestMain(m *testing.M) {
	// Most of these tests wait most of the time. The one that does not, with
	// its five thousand services, is not among the parallel ones.
	flag.Set("test.parallel", "6")
	rig.Main(m)
}
