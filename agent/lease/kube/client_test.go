package kube

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/nstest"
)

// TestLinkFlap: a connection that the kernel masquerades and forgets, as it does
// with the link, ends for who only listens on it, long before the half minute
// after which client-go looks by itself.
//
//	  node                      API
//	eth0 10.0.0.1/24 ────── eth0 10.0.0.2/24
//	masquerade
func TestLinkFlap(t *testing.T) {
	nstest.Require(t)
	node, api := nstest.New(t), nstest.New(t)
	connect(t, node, api)
	if err := node.Do(masquerade); err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	if err := api.Do(func() (err error) { l, err = net.Listen("tcp4", "10.0.0.2:6443"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := dial(t, node, "10.0.0.2:6443")
	defer c.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := errors.Join(write(server, "before"), read(c, "before")); err != nil {
		t.Fatal(err)
	}
	if err := node.Do(flap); err != nil {
		t.Fatal(err)
	}
	if err := write(server, "after"); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	// The kernel forgets after a moment, and until then the text arrives.
	for err == nil {
		_, err = c.Read(make([]byte, 16))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ends with %v; want a reset", err)
	}
}

// dial connects as the agent does, and as often: a link that has just come up
// loses what is sent in its first moments.
func dial(t *testing.T, from *netns.Set, address string) (c net.Conn) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		err := from.Do(func() (err error) { c, err = dialer().DialContext(t.Context(), "tcp4", address); return err })
		if err == nil {
			return c
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// connect joins two namespaces by a veth pair.
func connect(t *testing.T, a, b *netns.Set) {
	t.Helper()
	end := func(address string) error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrAdd(l, addr), netlink.LinkSetUp(l))
	}
	if err := a.Do(func() error {
		err := netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(b.Net),
		})
		return errors.Join(err, end("10.0.0.1/24"))
	}); err != nil {
		t.Fatal(err)
	}
	if err := b.Do(func() error { return end("10.0.0.2/24") }); err != nil {
		t.Fatal(err)
	}
}

// masquerade is "masquerade fully-random", as kube-proxy's is.
func masquerade() error {
	c, err := nft.New()
	if err != nil {
		return err
	}
	table := c.AddTable(&nft.Table{Name: "nat", Family: nft.TableFamilyIPv4})
	chain := c.AddChain(&nft.Chain{
		Name: "postrouting", Table: table, Type: nft.ChainTypeNAT,
		Hooknum: nft.ChainHookPostrouting, Priority: nft.ChainPriorityNATSource,
	})
	c.AddRule(&nft.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Masq{FullyRandom: true}}})
	return c.Flush()
}

func flap() error {
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetDown(l), netlink.LinkSetUp(l))
}

func write(c net.Conn, text string) error {
	_, err := c.Write([]byte(text))
	return err
}

func read(c net.Conn, want string) error {
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != want {
		return errors.New("read " + string(b))
	}
	return nil
}
