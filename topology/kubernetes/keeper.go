package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// A session outlives a command that is killed, or a machine that goes: then
// nobody renews its lease, and the first probe that sees that the lease has run
// out deletes the session's namespace, itself included.
const (
	// commandLease is the lease of a session for one command, and keptLease of one
	// that `overlab up` has made: so long after it was last used it goes.
	commandLease = time.Minute
	keptLease    = time.Hour
	// renewEvery is how often a command renews, and watchEvery how often a probe
	// looks.
	renewEvery = 10 * time.Second
	watchEvery = 15 * time.Second
)

// seconds is the length of the session's lease.
func (s *session) seconds() int32 {
	if s.purpose == kept {
		return int32(keptLease / time.Second)
	}
	return int32(commandLease / time.Second)
}

// renew renews the lease until the session is released.
func (s *session) renew(ctx context.Context) {
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.renewed = make(chan struct{})
	go func() {
		defer close(s.renewed)
		for {
			if err := s.renewOnce(ctx); err != nil && ctx.Err() == nil {
				// The next one may succeed; six may fail.
				slog.Debug("the session's lease was not renewed", "namespace", s.namespace, "error", err)
			}
			if pause(ctx, renewEvery) != nil {
				return
			}
		}
	}()
}

func (s *session) renewOnce(ctx context.Context) error {
	l := new(coordinationv1.Lease)
	if err := s.api.get(ctx, leaseResource(), s.namespace, sessionName, l); err != nil {
		return err
	}
	now := metav1.NowMicro()
	l.Spec.RenewTime = &now
	return s.api.update(ctx, leaseResource(), s.namespace, sessionName, l)
}

// Keep watches over a session from one of its own pods until ctx ends: it
// deletes the session's namespace when the lease was not renewed for as long as
// the lease says. Clocks of machines are not compared: what counts is how long
// the same lease was seen here.
func Keep(ctx context.Context, namespace, lease string) error {
	config, err := rest.InClusterConfig()
	if err != nil {
		return fmt.Errorf("keep watch over %s: %w", namespace, err)
	}
	a, err := newAPI(config)
	if err != nil {
		return fmt.Errorf("keep watch over %s: %w", namespace, err)
	}
	return keep(ctx, a, namespace, lease, watchEvery)
}

func keep(ctx context.Context, a *api, namespace, lease string, every time.Duration) error {
	var seen string
	since := time.Now()
	for {
		l := new(coordinationv1.Lease)
		err := a.get(ctx, leaseResource(), namespace, lease, l)
		switch {
		case ctx.Err() != nil:
			return nil
		case apierrors.IsNotFound(err):
			err = nil // the namespace is ending: so is this
		case err == nil && l.ResourceVersion+l.Spec.RenewTime.String() != seen:
			seen, since = l.ResourceVersion+l.Spec.RenewTime.String(), time.Now()
		case err == nil && time.Since(since) > time.Duration(*l.Spec.LeaseDurationSeconds)*time.Second:
			slog.Info("nobody has renewed the session: it goes", "namespace", namespace, "for", time.Since(since).Round(time.Second))
			if err = a.remove(ctx, namespaceResource(), "", namespace); apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				err = nil
			}
		}
		if err != nil {
			slog.Warn("cannot look after the session", "namespace", namespace, "error", err)
		}
		if err := pause(ctx, every); err != nil {
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		}
	}
}
