package rundir

// Submit is WriteNew for a request. Whoever watches the folder hears of it when
// it is there and not before: the daemon, which does not hurry for files that
// are none of its business, would first hear of one that is being written.
func (f *Folder) Submit(name string, data []byte) error {
	if f.linkNew(name, data) {
		return nil
	}
	return f.WriteNew(name, data)
}
