package checks

import (
	"context"
	"fmt"
	"sync"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/suite"
)

// What checks ask of the lab itself, and not of a namespace.

// able reports whether the lab is a T as well, which can do what.
func able[T any](ctx context.Context, env *suite.Env, what string) (bool, error) {
	return suite.Observe(ctx, env, "the lab can "+what, func() (bool, error) {
		_, can := env.Lab().(T)
		return can, nil
	})
}

// needs says that a check is not applicable where the lab is not a T.
func needs[T any](ctx context.Context, env *suite.Env, what string) error {
	can, err := able[T](ctx, env, what)
	if err == nil && !can {
		err = suite.NotApplicablef("this lab cannot %s", what)
	}
	return err
}

// canRestart reports whether the lab can restart agents.
func canRestart(ctx context.Context, env *suite.Env) (bool, error) {
	return able[suite.AgentRestarter](ctx, env, "restart agents")
}

// restartAgent kills a node's agent, and returns when the next one is ready. The
// lab is an AgentRestarter.
func restartAgent(ctx context.Context, env *suite.Env, node string) error {
	restarting, cancel := context.WithTimeout(ctx, env.Timeouts().Restart)
	defer cancel()
	return suite.Act(ctx, env, "the agent of "+node+" is restarted", func() error {
		if err := env.Lab().(suite.AgentRestarter).RestartAgent(restarting, node); err != nil {
			return fmt.Errorf("restart the agent of %s: %w", node, err)
		}
		return nil
	})
}

// holdAgent keeps a node's agent ended until release, or the end of the check.
// The lab is an AgentHolder.
func holdAgent(ctx context.Context, env *suite.Env, node string) (release func(context.Context) error, err error) {
	return held(ctx, env, node+"'s agent", func(ctx context.Context) (func(context.Context) error, error) {
		return env.Lab().(suite.AgentHolder).HoldAgent(ctx, node)
	})
}

// cordonNode keeps new pods off a node until release, or the end of the check.
// The lab is a NodeCordoner.
func cordonNode(ctx context.Context, env *suite.Env, node string) (release func(context.Context) error, err error) {
	return held(ctx, env, "the scheduling of pods to "+node, func(ctx context.Context) (func(context.Context) error, error) {
		return env.Lab().(suite.NodeCordoner).CordonNode(ctx, node)
	})
}

// restartMachine restarts a node's machine. The lab is a NodeRestarter.
func restartMachine(ctx context.Context, env *suite.Env, node string) error {
	err := suite.Act(ctx, env, "the machine of "+node+" is restarted", func() error {
		restarting, cancel := context.WithTimeout(ctx, env.Timeouts().Machine)
		defer cancel()
		return env.Lab().(suite.NodeRestarter).RestartNode(restarting, node)
	})
	if err != nil {
		return fmt.Errorf("restart the machine of %s: %w", node, err)
	}
	return env.Renew(ctx, node)
}

// holdStore keeps the store ended until release, or the end of the check. The
// lab is a StoreHolder.
func holdStore(ctx context.Context, env *suite.Env) (release func(context.Context) error, err error) {
	return held(ctx, env, "the store", func(ctx context.Context) (func(context.Context) error, error) {
		return env.Lab().(suite.StoreHolder).HoldStore(ctx)
	})
}

func held(ctx context.Context, env *suite.Env, what string, hold func(context.Context) (func(context.Context) error, error)) (release func(context.Context) error, err error) {
	holding, cancel := context.WithTimeout(ctx, env.Timeouts().Restart)
	defer cancel()
	var let func(context.Context) error
	err = suite.Act(ctx, env, what+" is ended", func() (err error) {
		if let, err = hold(holding); err != nil {
			err = fmt.Errorf("end %s: %w", what, err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var once sync.Once
	back := func(ctx context.Context) error {
		var err error
		once.Do(func() { err = let(ctx) })
		return err
	}
	env.Restore(what, back)
	return func(ctx context.Context) error {
		return suite.Act(ctx, env, what+" is back", func() error { return back(ctx) })
	}, nil
}

// storedLeases reads the store. What in it is no lease is told apart from that
// it could not be read.
func storedLeases(ctx context.Context, env *suite.Env) (all []lease.Lease, malformed, err error) {
	c, err := suite.Observe(ctx, env, "the store", func() (*lease.Contents, error) {
		reading, cancel := context.WithTimeout(ctx, env.Timeouts().Store)
		defer cancel()
		return lease.Read(reading, env.Lab())
	})
	if err != nil {
		return nil, nil, err
	}
	all, malformed = c.Leases()
	return all, malformed, nil
}

// putLease writes a lease to the store.
func putLease(ctx context.Context, env *suite.Env, l lease.Lease) error {
	return suite.Act(ctx, env, "the lease "+l.Key+" is written", func() error {
		writing, cancel := context.WithTimeout(ctx, env.Timeouts().Store)
		defer cancel()
		return lease.Put(writing, env.Lab(), l)
	})
}

// deleteLease takes a lease from the store.
func deleteLease(ctx context.Context, env *suite.Env, key string) error {
	return suite.Act(ctx, env, "the lease "+key+" is deleted", func() error { return lease.Delete(ctx, env.Lab(), key) })
}
