package actor

import (
	"testing"
	"unsafe"
)

// There may be ten thousand services. A byte more than a size class of the
// runtime's (runtime/sizeclasses.go) is a whole one for each.
func TestAServiceIsNoLargerThanItHasToBe(t *testing.T) {
	if size := unsafe.Sizeof(Service{}); size > 288 {
		t.Errorf("got %d bytes, want 288 at most", size)
	}
}
