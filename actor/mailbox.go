package actor

import "sync/atomic"

// mailbox is an unbounded queue with one reader. Putting never blocks, so
// that actors cannot wait for each other in a circle; what is put is bounded
// by nature: requests that clients wait for, changes of files.
type mailbox[T any] struct {
	last atomic.Pointer[letter[T]] // nil: it is empty, as most are most of the time
}

type letter[T any] struct {
	message T
	before  *letter[T]
}

// put adds a message. If it is the first since the last take, whoever puts it
// wakes the reader.
func (m *mailbox[T]) put(message T) (first bool) {
	l := &letter[T]{message: message}
	for {
		l.before = m.last.Load()
		if m.last.CompareAndSwap(l.before, l) {
			return l.before == nil
		}
	}
}

// newest is the last message that was put and has not been taken, if there is one.
// Whatever happened before this call, who takes it will know.
func (m *mailbox[T]) newest() (message T, ok bool) {
	if l := m.last.Load(); l != nil {
		return l.message, true
	}
	return message, false
}

// take returns all messages, the oldest first.
func (m *mailbox[T]) take() []T {
	last := m.last.Swap(nil)
	count := 0
	for l := last; l != nil; l = l.before {
		count++
	}
	messages := make([]T, count)
	for l := last; l != nil; l = l.before {
		count--
		messages[count] = l.message
	}
	return messages
}
