package agent

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/lease"
)

// follower calls a backend's Runner, beside the loop: it runs other programs,
// and no lease should wait for those.
type follower struct {
	agent  *Agent
	runner backend.Runner // nil where the backend is none
	// lost receives when what the runner has made is gone; nil where it cannot.
	lost <-chan struct{}
	// verifier is the runner, where others can undo its work unnoticed.
	verifier backend.Verifier
	// questions ask it whether somebody has; looks ask to see to it.
	questions chan chan<- error
	looks     chan struct{}
	// disturbed says that a device was changed since the last look.
	disturbed atomic.Bool
	// todo is what is to be followed, newest only.
	todo mailbox[leases]

	now      *leases // nil before there are any
	lastLoss time.Time
	retry    *time.Timer // when it is tried again
	pause    backoff
	said     string // what the log was told last, while it fails
}

// lossPause is how soon after a loss another one is no accident: it is made up
// for with the pauses of a failure.
const lossPause = time.Second

// lookPause is the pause between two looks at what others may undo unnoticed:
// the longest that a node is wrong without saying so.
const lookPause = 500 * time.Millisecond

// leases are what a Runner follows.
type leases struct {
	own lease.Lease
	all []lease.Lease
}

func newFollower(a *Agent, b backend.Backend) *follower {
	f := &follower{
		agent: a, todo: newMailbox[leases](), questions: make(chan chan<- error, 16), looks: make(chan struct{}, 1),
		retry: time.NewTimer(0), pause: backoff{first: 200 * time.Millisecond, last: 10 * time.Second},
	}
	f.retry.Stop()
	if r, ok := b.(backend.Runner); ok {
		f.runner = r
		if l, ok := b.(backend.Loser); ok {
			f.lost = l.Lost()
		}
		f.verifier, _ = b.(backend.Verifier)
	} else {
		a.status.set(topicBackend, nil)
	}
	return f
}

// tell hands over the leases, and does not wait.
func (f *follower) tell(own lease.Lease, all []lease.Lease) {
	if f.runner != nil {
		f.agent.status.set(topicBackend, errors.New("the leases are being followed"))
		f.todo.put(leases{own, all})
	}
}

// ask answers, sooner or later, whether all is as it was made; it does not wait.
func (f *follower) ask(answer chan<- error) {
	if f.verifier == nil {
		answer <- nil
		return
	}
	select {
	case f.questions <- answer:
	default:
		answer <- fmt.Errorf("%s: it is being worked on", topicBackend)
	}
}

// look asks for a look at what others may have undone, and does not wait;
// disturbed says that they have changed a device.
func (f *follower) look(disturbed bool) {
	if disturbed {
		f.disturbed.Store(true)
	}
	select {
	case f.looks <- struct{}{}:
	default:
	}
}

func (f *follower) run(ctx context.Context) {
	if f.runner == nil {
		return
	}
	look := time.NewTicker(lookPause)
	defer look.Stop()
	for {
		due := true
		select {
		case <-ctx.Done():
			return
		case l := <-f.todo.ch:
			f.now = &l
			f.pause.reset()
		case <-f.retry.C:
		case <-f.lost:
			due = f.replace()
		case answer := <-f.questions:
			err := f.verify(ctx)
			answer <- err
			due = err != nil
		case <-look.C:
			due = f.verify(ctx) != nil
		case <-f.looks:
			due = f.verify(ctx) != nil
		}
		if due && f.now != nil {
			f.follow(ctx)
		}
	}
}

// replace reports whether what was lost is to be made anew at once.
func (f *follower) replace() bool {
	f.agent.Log.Warn("what the backend runs was lost; making it anew")
	f.agent.status.set(topicBackend, errors.New("what the backend runs was lost, and is made anew"))
	before := f.lastLoss
	if f.lastLoss = time.Now(); f.lastLoss.Sub(before) < lossPause {
		f.retry.Reset(f.pause.next())
		return false
	}
	return true
}

// verify says in what the node is no longer as it was made. There is nothing
// to verify before it was made, nor while that fails.
func (f *follower) verify(ctx context.Context) error {
	if f.verifier == nil || f.now == nil || f.said != "" {
		return nil
	}
	if f.disturbed.Swap(false) {
		f.verifier.Disturbed()
	}
	err := f.verifier.Verify(ctx, f.now.own, f.now.all)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	f.agent.status.set(topicBackend, errors.New("it was altered and is being repaired"))
	f.agent.Log.Warn("repair of the backend", "why", err)
	return fmt.Errorf("%s: %w", topicBackend, err)
}

// follow makes the node as the leases say, and sees to another attempt where
// that fails.
func (f *follower) follow(ctx context.Context) {
	err := f.runner.Follow(ctx, f.now.own, f.now.all)
	if ctx.Err() != nil {
		return
	}
	f.agent.status.set(topicBackend, err)
	if err == nil {
		f.said = ""
		f.retry.Stop()
		return
	}
	if err.Error() != f.said {
		f.said = err.Error()
		f.agent.Log.Error("not ready: "+string(topicBackend), "err", err)
	}
	f.retry.Reset(f.pause.next())
}
