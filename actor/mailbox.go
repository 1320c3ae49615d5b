package actor

import "sync"

// mailbox is an unbounded queue with one reader. Putting never blocks, so
// that actors cannot wait for each other in a circle; what is put is bounded
// by nature: requests that clients wait for, changes of files.
type mailbox[T any] struct {
	mu    sync.Mutex // guards queue between senders and the reader
	queue []T
	wake  chan struct{}
}

func newMailbox[T any]() mailbox[T] {
	return mailbox[T]{wake: make(chan struct{}, 1)}
}

// put adds a message.
func (m *mailbox[T]) put(message T) {
	m.mu.Lock()
	m.queue = append(m.queue, message)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// take returns all messages, the oldest first. It is called after wake has
// been received from.
func (m *mailbox[T]) take() []T {
	m.mu.Lock()
	defer m.mu.Unlock()
	queue := m.queue
	m.queue = nil
	return queue
}
