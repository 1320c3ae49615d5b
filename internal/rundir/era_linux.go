package rundir

import (
	"os"
	"strings"
)

// era names the time and place in which process numbers and start times mean
// something: this boot and this PID namespace (a container that is started
// anew has another one). Empty if that cannot be found out.
func era() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	space, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(boot)) + " " + space
}
