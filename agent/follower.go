package agent

import (
	"context"
	"errors"
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
	// todo is what is to be followed, newest only.
	todo mailbox[leases]
}

// lossPause is how soon after a loss another one is no accident: it is made up
// for with the pauses of a failure.
const lossPause = time.Second

// leases are what a Runner follows.
type leases struct {
	own lease.Lease
	all []lease.Lease
}

func newFollower(a *Agent, b backend.Backend) *follower {
	f := &follower{agent: a, todo: newMailbox[leases]()}
	if r, ok := b.(backend.Runner); ok {
		f.runner = r
		if l, ok := b.(backend.Loser); ok {
			f.lost = l.Lost()
		}
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

func (f *follower) run(ctx context.Context) {
	if f.runner == nil {
		return
	}
	retry := time.NewTimer(0)
	retry.Stop()
	pause := backoff{first: 200 * time.Millisecond, last: 10 * time.Second}
	var now leases
	var lost time.Time // when it last was
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case now = <-f.todo.ch:
			pause.reset()
		case <-retry.C:
		case <-f.lost:
			f.agent.Log.Warn("what the backend runs was lost; making it anew")
			f.agent.status.set(topicBackend, errors.New("what the backend runs was lost, and is made anew"))
			before := lost
			if lost = time.Now(); lost.Sub(before) < lossPause {
				retry.Reset(pause.next())
				continue
			}
		}
		err := f.runner.Follow(ctx, now.own, now.all)
		if ctx.Err() != nil {
			return
		}
		f.agent.status.set(topicBackend, err)
		if err == nil {
			said = ""
			retry.Stop()
			continue
		}
		if err.Error() != said {
			said = err.Error()
			f.agent.Log.Error("not ready: "+string(topicBackend), "err", err)
		}
		retry.Reset(pause.next())
	}
}
