package rundir

import (
	"bytes"
	"strconv"
)

// DaemonPid is the number in RUNDIR/pid, 0 if there is none. It is for showing
// only: it proves nothing, and it is 1 in a container.
func (d *Dir) DaemonPid() int {
	top := d.top()
	data, err := top.Read(Pid)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(data)))
	if err != nil || pid < 1 {
		return 0
	}
	return pid
}
