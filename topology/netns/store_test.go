package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"github.com/overlab/overlab/internal/nstest"
)

func TestStoreHoldsConfigAndReservations(t *testing.T) {
	labFolders(t)
	p := planOf(t, "spec: {network: {Network: 10.0.0.0/8}, nodes: [{name: m, role: control-plane}, {name: w, count: 140}]}\n")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := nstest.New(t).Do(func() error {
		s, err := startStore(p)
		if err != nil {
			return err
		}
		defer s.server.Close()
		if err := s.wait(ctx); err != nil {
			return err
		}
		if err := s.fill(ctx); err != nil {
			return err
		}
		c := v3client.New(s.server.Server)
		defer c.Close()
		config, err := c.Get(ctx, "/coreos.com/network/config")
		if err != nil {
			return err
		}
		if len(config.Kvs) != 1 || !strings.Contains(string(config.Kvs[0].Value), `"Network":"10.0.0.0/8"`) {
			t.Errorf("config: %v", config.Kvs)
		}
		subnets, err := c.Get(ctx, "/coreos.com/network/subnets/", clientv3.WithPrefix())
		if err != nil {
			return err
		}
		if len(subnets.Kvs) != len(p.Nodes) {
			t.Errorf("%d reservations for %d nodes", len(subnets.Kvs), len(p.Nodes))
		}
		first := subnets.Kvs[0]
		if key, value := string(first.Key), string(first.Value); key != "/coreos.com/network/subnets/10.0.0.0-24" ||
			value != fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null}`, p.Nodes[0].PublicIP()) || first.Lease != 0 {
			t.Errorf("reservation %s = %s, lease %d", key, value, first.Lease)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestStoreDual: a reservation names both subnets and both addresses.
func TestStoreDual(t *testing.T) {
	labFolders(t)
	p := planOf(t, "spec: {network: {EnableIPv6: true}}\n")
	err := nstest.New(t).Do(func() error {
		s, err := startStore(p)
		if err != nil {
			return err
		}
		defer s.server.Close()
		if err := errors.Join(s.wait(t.Context()), s.fill(t.Context())); err != nil {
			return err
		}
		c := v3client.New(s.server.Server)
		defer c.Close()
		const key = "/coreos.com/network/subnets/10.244.1.0-24&fd00:10:244:1::-64"
		got, err := c.Get(t.Context(), key)
		if err != nil {
			return err
		}
		if want := `{"PublicIP":"172.16.1.2","PublicIPv6":"fd00:172:16:1::2"}`; len(got.Kvs) != 1 || string(got.Kvs[0].Value) != want {
			t.Errorf("%s holds %v, not %s", key, got.Kvs, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestStoreWhosePortIsUsed(t *testing.T) {
	labFolders(t)
	for _, c := range []struct {
		name, listen, spec string
		words              []string
	}{
		{"client port", ":2379", "spec: {}\n", []string{"port 2379", "spec.store.port", "node master"}},
		{"another client port", "127.0.0.1:4001", "spec: {store: {port: 4001}}\n", []string{"port 4001", "spec.store.port"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := planOf(t, c.spec)
			err := nstest.New(t).Do(func() error {
				l, err := net.Listen("tcp", c.listen)
				if err != nil {
					return err
				}
				defer l.Close()
				s, err := startStore(p)
				if err == nil {
					t.Error("the store started")
					s.server.Close()
					return nil
				}
				for _, w := range c.words {
					if !strings.Contains(err.Error(), w) {
						t.Errorf("%q does not say %q", err, w)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestStoreThatCannotComeBack: where something else has the port by then, who
// wants the store back is told so, each time, and has it once the port is free.
func TestStoreThatCannotComeBack(t *testing.T) {
	labFolders(t)
	p := planOf(t, "spec: {}\n")
	l := &lab{
		plan: p, spaces: map[string]*space{p.Store.Node: {name: p.Store.Node, set: nstest.New(t)}},
		ended: ended{releases: map[string]func(context.Context) error{}},
	}
	home := l.spaces[p.Store.Node]
	if err := errors.Join(l.openStore(home), l.store.wait(t.Context())); err != nil {
		t.Fatal(err)
	}
	if r := l.keepEnded(opEnd, ""); r.Error != "" {
		t.Fatal(r.Error)
	}
	var other net.Listener
	if err := home.set.Do(func() (err error) { other, err = net.Listen("tcp", ":2379"); return err }); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if r := l.keepEnded(opStart, ""); !strings.Contains(r.Error, "port 2379: something else") {
			t.Errorf("the store cannot come back: %q", r.Error)
		}
	}
	if r := l.keepEnded(opEnd, ""); r.Error != "" {
		t.Errorf("what is ended stays so: %s", r.Error)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if r := l.keepEnded(opStart, ""); r.Error != "" {
		t.Fatalf("the port is free: %s", r.Error)
	}
	if _, err := v3client.New(l.store.server.Server).Get(t.Context(), "any"); err != nil {
		t.Errorf("the store does not answer: %v", err)
	}
	l.store.stop()
}
