package lease

import (
	"context"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overlab/overlab/topology"
)

// Entry is a key under subnets/ as etcd holds it, whether it is a lease or not.
type Entry struct {
	// Key is the key's last part.
	Key   string `json:"key"`
	Value string `json:"value"`
	// ID is the etcd lease that ends the key, 0 for one that never ends.
	ID int64 `json:"id,omitempty"`
}

// Entries reads all keys under subnets/ from a lab's etcd.
func Entries(ctx context.Context, lab topology.Lab) ([]Entry, error) {
	var all []Entry
	err := change(lab, "read the keys of the leases", func(c *clientv3.Client, prefix string) error {
		answer, err := c.Get(ctx, prefix, clientv3.WithPrefix())
		if err != nil {
			return err
		}
		for _, kv := range answer.Kvs {
			all = append(all, Entry{Key: strings.TrimPrefix(string(kv.Key), prefix), Value: string(kv.Value), ID: kv.Lease})
		}
		return nil
	})
	return all, err
}

// Write writes a key as it is, hung on its etcd lease. One whose lease has
// ended meanwhile never ends itself, until its agent renews it.
func Write(ctx context.Context, lab topology.Lab, e Entry) error {
	return change(lab, "write the key "+e.Key, func(c *clientv3.Client, prefix string) error {
		var on []clientv3.OpOption
		if e.ID != 0 {
			left, err := c.TimeToLive(ctx, clientv3.LeaseID(e.ID))
			if err != nil {
				return fmt.Errorf("ask for its etcd lease %x: %w", e.ID, err)
			}
			if left.TTL > 0 {
				on = append(on, clientv3.WithLease(clientv3.LeaseID(e.ID)))
			}
		}
		_, err := c.Put(ctx, prefix+e.Key, e.Value, on...)
		return err
	})
}
