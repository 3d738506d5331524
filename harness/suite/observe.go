package suite

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Observe returns what look sees or does where no probe session leads: the
// store, an agent that is restarted, a plugin that is run. It is part of the
// record: a replay does not call look, and returns what it returned then, in
// the order in which the check asked under the same name. T is plain data that
// JSON can carry. Of an error a replay knows the text, and the verdict that it
// stands for.
func Observe[T any](ctx context.Context, e *Env, what string, look func() (T, error)) (T, error) {
	if p := e.run.replay; p != nil {
		var seen T
		return seen, p.observed(ctx, what, &seen)
	}
	seen, err := look()
	e.run.record.observed(ctx, what, seen, err)
	return seen, err
}

// Act is Observe of what gives an error alone.
func Act(ctx context.Context, e *Env, what string, do func() error) error {
	_, err := Observe(ctx, e, what, func() (struct{}, error) { return struct{}{}, do() })
	return err
}

// Now is the time, of the wall clock alone: the time that it was, in a replay.
func (e *Env) Now(ctx context.Context) time.Time {
	// A record that has not got it has nothing else either, and that is told.
	now, err := Observe(ctx, e, "clock", func() (time.Time, error) { return time.Now().Round(0), nil })
	e.run.lacks(e.id, err)
	return now
}

// NewID is a fresh identifier for packets: the one that it was, in a replay.
func (e *Env) NewID(ctx context.Context) uuid.UUID {
	id, err := Observe(ctx, e, "identifier", uuid.NewRandom)
	e.run.lacks(e.id, err)
	return id
}

// polled is how a Poll went.
type polled struct {
	Looks int `json:"looks"`
	// Over says that its time was over before it was done.
	Over bool `json:"over,omitempty"`
}

// Poll looks at intervals until look says that it is done, or the limit is over:
// then the answer is false, without an error. A replay looks as often as was
// looked then, and does not wait.
func (e *Env) Poll(ctx context.Context, what string, limit, interval time.Duration, look func(context.Context) (done bool, err error)) (bool, error) {
	done := false
	p, err := Observe(ctx, e, "looks at "+what, func() (polled, error) {
		waiting, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		for n := 1; ; n++ {
			var err error
			done, err = look(waiting)
			switch {
			case done:
				return polled{Looks: n}, nil
			case ctx.Err() != nil:
				return polled{Looks: n}, context.Cause(ctx)
			case waiting.Err() != nil:
				return polled{Looks: n, Over: true}, nil
			case err != nil:
				return polled{Looks: n}, err
			}
			_ = pause(waiting, interval) // that it is over is seen after one more look
		}
	})
	if e.run.replay == nil || err != nil {
		return done, err
	}
	for range p.Looks {
		if done, err = look(ctx); done || err != nil && !p.Over {
			return done, err
		}
	}
	return false, nil
}

// pause waits; its error is ctx's.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return ctx.Err()
}

// restored puts back what the check has changed; a replay tells how that went
// then. What restoring looks at itself is no evidence of a verdict.
func (e *Env) restored(ctx context.Context) error {
	return Act(ctx, e, "all is put back", func() error { return e.putBack(withScope(ctx, unrecorded)) })
}
