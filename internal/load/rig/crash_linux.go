package rig

// Crash kills the daemon and returns when it is gone.
func (r *Rig) Crash() {
	r.t.Helper()
	if err := r.Daemon.Kill(); err != nil {
		r.t.Fatal(err)
	}
	<-r.ended
	r.Daemon = nil
}
