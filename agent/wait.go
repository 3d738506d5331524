package agent

import (
	"context"
	"time"
)

// backoff is a pause that doubles from first to last.
type backoff struct {
	first, last time.Duration
	now         time.Duration
}

// next returns the pause to make now.
func (b *backoff) next() time.Duration {
	b.now = min(max(2*b.now, b.first), b.last)
	return b.now
}

// reset makes the next pause the first again.
func (b *backoff) reset() { b.now = 0 }

// wait makes the pause; false when ctx has ended.
func (b *backoff) wait(ctx context.Context) bool {
	t := time.NewTimer(b.next())
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// mailbox hands over the newest value of one sender; one that was not fetched
// in time is replaced.
type mailbox[T any] struct{ ch chan T }

func newMailbox[T any]() mailbox[T] { return mailbox[T]{make(chan T, 1)} }

func (m mailbox[T]) put(v T) {
	select {
	case <-m.ch:
	default:
	}
	m.ch <- v
}
