//go:build linux

package load

import (
	"testing"

	"sysmgr/internal/load/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }
