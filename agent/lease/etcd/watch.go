package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/overlab/overlab/agent/lease"
)

// view is what is known of the keys under <prefix>/subnets/.
type view struct {
	*Store
	client  *clientv3.Client
	entries map[string]entry
	rev     int64
}

// entry is one key. A key that is no subnet's is never entered.
type entry struct {
	lease lease.Lease
	// bad says that the present value cannot be read, held that lease has a
	// value: the present one, or the last that could be read.
	bad, held bool
}

func (s *Store) key(k lease.Key) string { return s.subnets() + k.String() }

func (s *Store) subnets() string { return path.Join(s.prefix, "subnets") + "/" }

// list reads every key.
func (s *Store) list(ctx context.Context) (*view, error) { return s.listAt(ctx, 0) }

// listAt reads every key as it was at a revision; 0 is the newest.
func (s *Store) listAt(ctx context.Context, revision int64) (*view, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	r, err := client.Get(ctx, s.subnets(), clientv3.WithPrefix(), clientv3.WithRev(revision))
	if err != nil {
		return nil, fmt.Errorf("read %s from etcd: %w", s.subnets(), err)
	}
	v := &view{Store: s, client: client, entries: map[string]entry{}, rev: r.Header.Revision}
	for _, kv := range r.Kvs {
		v.put(kv)
	}
	return v, nil
}

// put enters a key's new value. What cannot be read is told of and passed
// over: one bad key must cost no other node its place in the overlay.
func (v *view) put(kv *mvccpb.KeyValue) {
	name := string(kv.Key)
	k, err := lease.ParseKey(strings.TrimPrefix(name, v.subnets()))
	if err != nil {
		v.log.Warn("passing over a key that is no lease", "key", name, "err", err)
		return
	}
	l := lease.Lease{Key: k, ID: kv.Lease, Revision: kv.ModRevision}
	if err := json.Unmarshal(kv.Value, &l.Attrs); err != nil {
		v.log.Warn("passing over a lease's value that cannot be read", "key", name, "err", err)
		e, known := v.entries[name]
		if !known {
			e.lease = l
		}
		e.bad = true
		v.entries[name] = e
		return
	}
	v.entries[name] = entry{lease: l, held: true}
}

// leases returns those that can be read, sorted.
func (v *view) leases() []lease.Lease {
	out := make([]lease.Lease, 0, len(v.entries))
	for _, e := range v.entries {
		if e.held {
			out = append(out, e.lease)
		}
	}
	lease.Sort(out)
	return out
}

// taken returns every subnet that has a key, readable or not.
func (v *view) taken() []lease.Lease {
	out := make([]lease.Lease, 0, len(v.entries))
	for _, e := range v.entries {
		out = append(out, e.lease)
	}
	return out
}

func (v *view) snapshot() lease.Snapshot {
	s := lease.Snapshot{Leases: v.leases(), Revision: v.rev}
	for _, e := range v.entries {
		if e.bad {
			s.Unreadable = append(s.Unreadable, e.lease.Key)
		}
	}
	return s
}

// errDisconnected ends a round of watching.
var errDisconnected = errors.New("the connection to etcd is lost")

// Watch implements lease.Store. Every round lists first: after a compaction,
// a lost connection or a store that was restored from a backup nothing else
// tells what was missed. The last set of leases is kept until then.
func (s *Store) Watch(ctx context.Context, fn func(lease.Snapshot)) {
	last := lease.Snapshot{Err: errors.New("the leases have not been read yet")}
	delay := firstRetry
	said := ""
	for ctx.Err() == nil {
		began := time.Now()
		err := s.watchOnce(ctx, func(snap lease.Snapshot) {
			if snap.Err == nil && said != "" {
				said = ""
				s.log.Info("the leases are followed again")
			}
			last = snap
			fn(snap)
		})
		if ctx.Err() != nil {
			return
		}
		last.Err = err
		fn(last)
		if err.Error() != said {
			said = err.Error()
			s.log.Warn("watching the leases was interrupted; what is known stays in force", "err", err)
		}
		if time.Since(began) > lastRetry {
			delay = firstRetry
		}
		if !pause(ctx, delay) {
			return
		}
		delay = min(2*delay, lastRetry)
	}
}

// watchOnce lists and then follows the changes until something breaks.
func (s *Store) watchOnce(ctx context.Context, fn func(lease.Snapshot)) error {
	v, err := s.list(ctx)
	if err != nil {
		return err
	}
	first := v.snapshot()
	first.Err = errors.New("the leases were read, but their changes are not followed yet")
	fn(first)
	return s.follow(ctx, v, fn)
}

// follow keeps the view up to date until something breaks.
func (s *Store) follow(ctx context.Context, v *view, fn func(lease.Snapshot)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go guardConnection(ctx, v.client.ActiveConnection(), cancel)
	changes := v.client.Watch(clientv3.WithRequireLeader(ctx), s.subnets(),
		clientv3.WithPrefix(), clientv3.WithRev(v.rev+1), clientv3.WithCreatedNotify())
	for r := range changes {
		if err := r.Err(); err != nil {
			return fmt.Errorf("watch %s in etcd: %w", s.subnets(), err)
		}
		v.take(r)
		fn(v.snapshot())
	}
	return fmt.Errorf("watch %s in etcd: %w", s.subnets(), context.Cause(ctx))
}

func (v *view) take(r clientv3.WatchResponse) {
	for _, e := range r.Events {
		// Not the response's own revision: that may be ahead of its events.
		v.rev = max(v.rev, e.Kv.ModRevision)
		if e.Type == mvccpb.Event_DELETE {
			delete(v.entries, string(e.Kv.Key))
		} else {
			v.put(e.Kv)
		}
	}
}

// guardConnection ends the round when the connection is lost. The client
// would mend a watch by itself and in silence, and meanwhile nobody could tell
// that the leases which it shows are old.
func guardConnection(ctx context.Context, conn *grpc.ClientConn, lost context.CancelCauseFunc) {
	for {
		state := conn.GetState()
		if state != connectivity.Ready {
			lost(errDisconnected)
			return
		}
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}
