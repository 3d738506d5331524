package cni

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlab/overlab/agent/cni/portmap"
)

// GC undoes every attachment of the network that the configuration's
// ValidAttachments do not list: pods that went away without a DEL. Port
// mappings whose attachment left nothing else behind go too.
func GC(ctx context.Context, c *Config) error {
	valid := func(id, ifname string) bool {
		for _, v := range c.ValidAttachments {
			if v.ContainerID == id && (v.IfName == ifname || ifname == "") {
				return true
			}
		}
		return false
	}
	stale, err := attachments(c)
	if err != nil {
		return coded(types.ErrIOFailure, "network "+c.Name, err)
	}
	var errs []error
	for _, r := range stale {
		if !valid(r.id, r.ifname) {
			// A record in the old form names no interface.
			errs = append(errs, Del(ctx, Request{ContainerID: r.id, IfName: or(r.ifname, "eth0"), Config: c}))
		}
	}
	errs = append(errs, c.keepPorts(ctx, valid))
	if err := errors.Join(errs...); err != nil {
		return coded(ErrKernel, "network "+c.Name, err)
	}
	return nil
}

// keepPorts removes the port mappings of attachments that are not valid.
func (c *Config) keepPorts(ctx context.Context, valid func(id, ifname string) bool) error {
	unlock, err := lockNode(ctx, c.dataDir())
	switch {
	case err == nil:
		defer unlock()
	case !errors.Is(err, os.ErrNotExist): // which says that no ADD has been here
		return coded(types.ErrTryAgainLater, "network "+c.Name, err)
	}
	n, err := c.unresolved()
	if err != nil {
		return err
	}
	return n.withPorts(func(t *portmap.Table) error {
		return t.Keep(func(o portmap.Owner) bool { return valid(o.ContainerID, o.IfName) })
	})
}

// attachments lists what is on disk: reservations, and records without one.
func attachments(c *Config) ([]reservation, error) {
	n, err := c.unresolved()
	if err != nil {
		return nil, err
	}
	found, err := reservations(ipamDir(n.ipam))
	if err != nil {
		return nil, err
	}
	known := make(map[string]bool)
	for _, r := range found {
		known[r.id] = true
	}
	records, err := os.ReadDir(c.dataDir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, e := range records {
		if known[e.Name()] || !e.Type().IsRegular() {
			continue
		}
		// Other networks can keep their records in the same directory.
		b, err := os.ReadFile(filepath.Join(c.dataDir(), e.Name()))
		if err != nil {
			return nil, err
		}
		var of struct {
			Name string `json:"name"`
		}
		if json.Unmarshal(b, &of) == nil && of.Name == c.Name {
			found = append(found, reservation{id: e.Name()})
		}
	}
	return found, nil
}
