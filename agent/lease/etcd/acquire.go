package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overlab/overlab/agent/lease"
)

// maxRaces bounds how often a claim is tried again because another node took
// the subnet first. With 100 candidates each, even hundreds of nodes that
// start at once need a few.
const maxRaces = 30

// Acquire implements lease.Store.
func (s *Store) Acquire(ctx context.Context, c lease.Claim) (lease.Grant, error) {
	value, err := json.Marshal(c.Attrs)
	if err != nil {
		return lease.Grant{}, fmt.Errorf("write the lease: %w", err)
	}
	client, err := s.connect(ctx)
	if err != nil {
		return lease.Grant{}, err
	}
	a := acquisition{Store: s, client: client, claim: c, value: string(value)}
	defer a.release(ctx)
	for range maxRaces {
		g, err := a.try(ctx)
		if err == nil {
			return g, nil
		}
		if !errors.Is(err, errLostRace) {
			return lease.Grant{}, fmt.Errorf("acquire a subnet for %s: %w", c.Config.Identity(c.Attrs), err)
		}
		s.log.Info("another node took the subnet first; trying again", "publicIP", c.Config.Identity(c.Attrs))
	}
	return lease.Grant{}, fmt.Errorf("acquire a subnet for %s: lost %d races for one", c.Config.Identity(c.Attrs), maxRaces)
}

// acquisition is one run of Acquire.
type acquisition struct {
	*Store
	client *clientv3.Client
	claim  lease.Claim
	value  string
	// spare is an etcd lease that was granted and that no key uses yet.
	spare clientv3.LeaseID
}

func (a *acquisition) try(ctx context.Context) (lease.Grant, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	view, err := a.list(ctx)
	if err != nil {
		return lease.Grant{}, err
	}
	leases := view.leases()
	own, stale := lease.Own(a.claim, leases)
	for _, l := range stale {
		a.log.Warn("giving back a subnet that the network configuration no longer allows", "subnet", l.Key)
		if err := a.drop(ctx, l); err != nil {
			return lease.Grant{}, err
		}
		delete(view.entries, view.key(l.Key))
	}
	if own == nil {
		own = view.ruined(a.claim.Previous)
	}
	if own != nil {
		return a.reuse(ctx, *own)
	}
	keys, err := lease.Allocate(a.claim, view.taken())
	if err != nil {
		return lease.Grant{}, err
	}
	return a.create(ctx, keys[rand.IntN(len(keys))])
}

// ruined returns the key of a subnet that we remember as ours and whose value
// somebody has made unreadable.
func (v *view) ruined(previous lease.Key) *lease.Lease {
	e, ok := v.entries[v.key(previous)]
	if !ok || !e.bad {
		return nil
	}
	return &e.lease
}

// drop deletes a lease of ours.
func (a *acquisition) drop(ctx context.Context, l lease.Lease) error {
	key := a.key(l.Key)
	_, err := a.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", l.Revision)).
		Then(clientv3.OpDelete(key)).Commit()
	return err
}

// reuse claims the key that carries our Identity: our own of an earlier run, or
// one that was reserved for us. A key that never expires stays so.
func (a *acquisition) reuse(ctx context.Context, l lease.Lease) (lease.Grant, error) {
	ttl, err := a.prolong(ctx, l.ID)
	if errors.Is(err, lease.ErrExpired) { // it ran out since we looked
		return lease.Grant{}, errLostRace
	}
	if err != nil {
		return lease.Grant{}, err
	}
	if l.ID == 0 && a.claim.Expires {
		if err := a.prepare(ctx); err != nil {
			return lease.Grant{}, err
		}
		l.ID, ttl = int64(a.spare), lease.TTL
	} else if l.Attrs.Equal(a.claim.Attrs) {
		return lease.Grant{Lease: l, TTL: ttl}, nil
	}
	key := a.key(l.Key)
	g, err := a.put(ctx, l.Key, clientv3.LeaseID(l.ID), clientv3.Compare(clientv3.ModRevision(key), "=", l.Revision))
	g.TTL, g.Replaced = ttl, &l.Attrs
	return g, err
}

// create takes free subnets. That no other node has the key does not say that
// none has a subnet of it: two keys can share the subnet of one family. Whoever
// wrote such a key later gives it back.
func (a *acquisition) create(ctx context.Context, k lease.Key) (lease.Grant, error) {
	if err := a.prepare(ctx); err != nil {
		return lease.Grant{}, err
	}
	g, err := a.put(ctx, k, a.spare, clientv3.Compare(clientv3.Version(a.key(k)), "=", 0))
	g.TTL = lease.TTL
	if err != nil || !k.Subnet.IsValid() || !k.Subnet6.IsValid() {
		return g, err
	}
	view, err := a.listAt(ctx, g.Lease.Revision)
	if err != nil {
		return lease.Grant{}, errors.Join(err, a.drop(ctx, g.Lease))
	}
	for _, l := range view.taken() {
		if l.Key != k && l.Key.Overlaps(k) {
			if err := a.drop(ctx, g.Lease); err != nil {
				return lease.Grant{}, err
			}
			a.spare = clientv3.LeaseID(g.Lease.ID)
			return lease.Grant{}, errLostRace
		}
	}
	return g, nil
}

// prepare makes sure that there is an etcd lease to put a key under.
func (a *acquisition) prepare(ctx context.Context) error {
	if a.spare != 0 {
		return nil
	}
	r, err := a.client.Grant(ctx, int64(lease.TTL.Seconds()))
	if err == nil {
		a.spare = r.ID
	}
	return err
}

func (a *acquisition) put(ctx context.Context, k lease.Key, id clientv3.LeaseID, guard clientv3.Cmp) (lease.Grant, error) {
	r, err := a.client.Txn(ctx).If(guard).Then(clientv3.OpPut(a.key(k), a.value, clientv3.WithLease(id))).Commit()
	if err != nil {
		return lease.Grant{}, err
	}
	if !r.Succeeded {
		return lease.Grant{}, errLostRace
	}
	if id == a.spare {
		a.spare = 0
	}
	return lease.Grant{Lease: lease.Lease{Key: k, Attrs: a.claim.Attrs, ID: int64(id), Revision: r.Header.Revision}}, nil
}

// release gives back an etcd lease that came to no use.
func (a *acquisition) release(ctx context.Context) {
	if a.spare == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, _ = a.client.Revoke(ctx, a.spare) // it also ends by itself, a day later
}
