package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/agent/backend/ipsec"
	"github.com/overlab/overlab/agent/daemon"
	"github.com/overlab/overlab/internal/etcdtest"
	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/internal/rtnl"
)

// asAgent in the environment makes the test binary an overlabd.
const asAgent = "OVERLAB_TEST_AS_AGENT"

func TestMain(m *testing.M) {
	if os.Getenv(asAgent) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		os.Exit(daemon.Run(ctx, os.Args[1:], os.Stdout, os.Stderr, os.Environ()))
	}
	nstest.Main(m)
}

const (
	// The agents take subnets from 10.244.100.0; those below are for peers that
	// are only in the store.
	netConf = `{"Network":"10.244.0.0/16","SubnetMin":"10.244.100.0","Backend":{"Type":"vxlan"}}`
	leases  = "/coreos.com/network/subnets/"
	// patience bounds every wait; the machine may be busy.
	patience = 30 * time.Second
)

// cluster is an underlay with a store:
//
//	        br0 172.16.0.254/16, etcd
//	         |        |        |
//	eth0 172.16.1.1  .1.2     .1.3   each in a namespace of its own
//	         |        |        |
//	       node 1   node 2   node 3
//
// The bridge and etcd are in the tests' own namespace.
type cluster struct {
	testing.TB
	etcd *etcdtest.Server
	conn *rtnl.Conn
}

func newCluster(t testing.TB, config string) *cluster {
	t.Helper()
	nstest.Require(t)
	conn, err := rtnl.Dial()
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{TB: t, conn: conn}
	var b rtnl.Batch
	// Without an address of its own the bridge takes the lowest of its ports':
	// a node that comes would cut the others off from the store until their
	// neighbour entries have aged.
	b.AddBridge(rtnl.Link{Name: "br0", Index: 1000, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0xfe}, Up: true})
	b.AddAddr(1000, netip.MustParsePrefix("172.16.0.254/16"))
	if err := conn.Do(&b); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.DelLink(1000)
		if err := errors.Join(conn.Do(&b), conn.Close()); err != nil {
			t.Error(err)
		}
	})
	c.etcd = etcdtest.Start(t, "172.16.0.254:2379")
	if config != "" {
		c.put("/coreos.com/network/config", config)
	}
	return c
}

func (c *cluster) put(key, value string) {
	c.Helper()
	if _, err := c.etcd.Client.Put(c.Context(), key, value); err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) del(key string) {
	c.Helper()
	if _, err := c.etcd.Client.Delete(c.Context(), key); err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) get(key string) (value string, lease int64) {
	c.Helper()
	r, err := c.etcd.Client.Get(c.Context(), key)
	if err != nil {
		c.Fatal(err)
	}
	if len(r.Kvs) == 0 {
		return "", 0
	}
	return string(r.Kvs[0].Value), r.Kvs[0].Lease
}

// peer makes the lease of a node that is only in the store.
func (c *cluster) peer(subnet, publicIP, mac string) {
	c.Helper()
	c.put(leases+subnet+"-24", fmt.Sprintf(
		`{"PublicIP":%q,"PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":%q}}`, publicIP, mac))
}

// node is one machine.
type node struct {
	*cluster
	set        *netns.Set
	ip         netip.Addr
	subnetFile string
	program    string
	args, env  []string
	cmd        *exec.Cmd
	log        *os.File
	http       *http.Client
}

// node makes a machine without an agent; n is the last byte of its address.
func (c *cluster) node(n int, args ...string) *node {
	c.Helper()
	ip := netip.AddrFrom4([4]byte{172, 16, 1, byte(n)})
	nd := &node{
		cluster: c, program: "/proc/self/exe", set: nstest.New(c), ip: ip,
		subnetFile: filepath.Join(c.TempDir(), "run", "flannel", "subnet.env"),
	}
	nd.args = append([]string{
		"--etcd-endpoints=" + c.etcd.Endpoint, "--iface=eth0", "--healthz-port=8080", "--healthz-ip=127.0.0.1",
		"--subnet-file=" + nd.subnetFile,
	}, args...)
	const eth0 = 100 // above links that a kernel puts into every namespace, such as tunl0
	var b rtnl.Batch
	b.AddVeth(rtnl.Link{Name: fmt.Sprintf("port%d", n), Index: 1000 + n, Master: 1000},
		rtnl.Link{Name: "eth0", Index: eth0, MTU: 1500, NetNS: nd.set.Net})
	b.SetLink(rtnl.Link{Index: 1000 + n, Up: true})
	if err := c.conn.Do(&b); err != nil {
		c.Fatal(err)
	}
	err := nd.set.Do(func() error {
		conn, err := rtnl.Dial()
		if err != nil {
			return err
		}
		b.AddAddr(eth0, netip.PrefixFrom(ip, 16))
		b.SetLink(rtnl.Link{Index: eth0, Up: true})
		return errors.Join(conn.Do(&b), conn.Close())
	})
	if err != nil {
		c.Fatal(err)
	}
	nd.eventually("eth0 has a carrier", func() error {
		if !strings.Contains(nd.sh("ip -o link show dev eth0"), " state UP ") {
			return errors.New("not yet")
		}
		return nil
	})
	nd.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return nd.set.Dial(ctx, network, address)
		},
	}}
	nd.log, err = os.CreateTemp(c.TempDir(), "log")
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() {
		nd.http.CloseIdleConnections()
		nd.kill()
		b.DelLink(1000 + n) // the kernel takes its time with the namespace
		b.Tolerate(unix.ENODEV)
		if err := c.conn.Do(&b); err != nil {
			c.Error(err)
		}
		if c.Failed() {
			c.Logf("node %s said:\n%s", ip, nd.said())
		}
		nd.log.Close()
	})
	return nd
}

// start starts the agent.
func (n *node) start() *node {
	n.Helper()
	n.cmd = exec.Command(n.program, n.args...)
	n.cmd.Env = append(append(os.Environ(), asAgent+"=1", ipsec.MemoryFileEnv+"="+filepath.Join(filepath.Dir(n.subnetFile), "ipsec.json")), n.env...)
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	if err := n.set.Do(n.cmd.Start); err != nil {
		n.Fatal(err)
	}
	return n
}

// kill ends the agent the hard way, if it runs.
func (n *node) kill() {
	if n.cmd != nil {
		_ = n.cmd.Process.Kill()
		_ = n.cmd.Wait()
		n.cmd = nil
	}
}

// stop ends the agent in order, and checks that this is quick and clean.
func (n *node) stop() {
	n.Helper()
	began := time.Now()
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		n.Fatal(err)
	}
	if err := n.cmd.Wait(); err != nil {
		n.Errorf("after SIGTERM: %v", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		n.Errorf("SIGTERM took %v", took)
	}
	n.cmd = nil
}

// said returns what the agent has logged.
func (n *node) said() string {
	b, err := os.ReadFile(n.log.Name())
	if err != nil {
		n.Fatal(err)
	}
	return string(b)
}

// sh runs a command inside the node.
func (n *node) sh(command string) string {
	n.Helper()
	var out []byte
	err := n.set.Do(func() (err error) {
		out, err = exec.Command("sh", "-c", command).CombinedOutput()
		return err
	})
	if err != nil {
		n.Errorf("%s: %v\n%s", command, err, out)
	}
	return strings.TrimSpace(string(out))
}

// ready asks /readyz.
func (n *node) ready() (bool, string) {
	r, err := n.http.Get("http://127.0.0.1:8080/readyz")
	if err != nil {
		return false, err.Error()
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return false, err.Error()
	}
	return r.StatusCode == http.StatusOK, string(body)
}

func (n *node) waitReady() {
	n.Helper()
	n.eventually("the node is ready", func() error {
		if ok, body := n.ready(); !ok {
			return errors.New(body)
		}
		return nil
	})
}

// subnet returns the node's subnet as subnet.env has it.
func (n *node) subnet() netip.Prefix {
	n.Helper()
	for line := range strings.Lines(n.file(n.subnetFile)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "FLANNEL_SUBNET="); ok {
			return netip.MustParsePrefix(v).Masked()
		}
	}
	n.Fatal("the subnet file names no subnet")
	return netip.Prefix{}
}

func (n *node) key() string { return leases + strings.Replace(n.subnet().String(), "/", "-", 1) }

func (n *node) file(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		n.Error(err)
	}
	return string(b)
}

// mac returns flannel.1's MAC address.
func (n *node) mac() string {
	n.Helper()
	var links []struct{ Address string }
	if err := json.Unmarshal([]byte(n.sh("ip -j link show flannel.1")), &links); err != nil {
		n.Fatal(err)
	}
	return links[0].Address
}

// mesh returns what the node has on flannel.1, in the tools' own words.
func (n *node) mesh() string {
	n.Helper()
	return n.sh("ip -o route show dev flannel.1; ip neigh show dev flannel.1 nud permanent | sort; bridge fdb show dev flannel.1 | sort; ip -o addr show dev flannel.1 | sed 's/.*inet/inet/'; ip link show flannel.1 | sed 's/^[0-9]*://'")
}

// eventually polls until check finds nothing.
func (c *cluster) eventually(what string, check func() error) {
	c.Helper()
	poll(c, what, check)
}

func poll(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		case <-tick.C:
		}
	}
}

// picture is a connection inside a node, to look at its kernel quickly.
type picture struct {
	conn  *rtnl.Conn
	index int
}

func (n *node) picture() *picture {
	n.Helper()
	p := &picture{}
	err := n.set.Do(func() (err error) {
		p.conn, err = rtnl.Dial()
		return err
	})
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { _ = p.conn.Close() })
	return p
}

// routes counts the routes through flannel.1; -1 without the device.
func (p *picture) routes() int {
	if p.index == 0 {
		l, err := p.conn.LinkByName("flannel.1")
		if err != nil {
			return -1
		}
		p.index = l.Index
	}
	routes, err := p.conn.Routes(unix.AF_INET, p.index)
	if err != nil {
		return -1
	}
	return len(routes)
}

func (p *picture) wait(t testing.TB, routes int) {
	t.Helper()
	poll(t, fmt.Sprintf("%d routes", routes), func() error {
		if n := p.routes(); n != routes {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
}

// dropRoutes deletes all routes through flannel.1, in one system call.
func (p *picture) dropRoutes(t testing.TB) {
	t.Helper()
	routes, err := p.conn.Routes(unix.AF_INET, p.index)
	if err != nil {
		t.Fatal(err)
	}
	var b rtnl.Batch
	for _, r := range routes {
		b.DelRoute(r.Route)
		b.Tolerate(unix.ESRCH)
	}
	if err := p.conn.Do(&b); err != nil {
		t.Fatal(err)
	}
}

// countLines counts the lines of s that hold all parts.
func countLines(s string, parts ...string) int {
	n := 0
	for line := range bytes.Lines([]byte(s)) {
		all := true
		for _, p := range parts {
			all = all && bytes.Contains(line, []byte(p))
		}
		if all {
			n++
		}
	}
	return n
}
