package actor

import "sync"

// mailbox is an unbounded queue with one reader. Putting never blocks, so
// that actors cannot wait for each other in a circle; what is put is bounded
// by nature: requests that clients wait for, changes of files.
type mailbox[T any] struct {
	mu    sync.Mutex // guards queue between senders and the reader
	queue []T
}

// put adds a message. If it is the first since the last take, whoever puts it
// wakes the reader.
func (m *mailbox[T]) put(message T) (first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queue = append(m.queue, message)
	return len(m.queue) == 1
}

// take returns all messages, the oldest first.
func (m *mailbox[T]) take() []T {
	m.mu.Lock()
	defer m.mu.Unlock()
	queue := m.queue
	m.queue = nil
	return queue
}
