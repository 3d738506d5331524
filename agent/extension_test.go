package agent_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestAlloc: a lease as flannel's, a subnet.env, and nothing else.
func TestAlloc(t *testing.T) {
	c := newCluster(t, `{"Network":"10.244.0.0/16","Backend":{"Type":"alloc"}}`)
	n := c.node(1).start()
	before := n.sh("ip -o link; ip route")
	n.waitReady()
	if value, _ := c.get(n.key()); value != `{"PublicIP":"172.16.1.1","PublicIPv6":null}` {
		t.Errorf("the lease is %s", value)
	}
	if after := n.sh("ip -o link; ip route"); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if env := n.file(n.subnetFile); !strings.Contains(env, "FLANNEL_MTU=1500\n") {
		t.Error(env)
	}
}

// TestExtension: the lease carries what the first command printed, a failing
// command is named by /readyz and the log, and it is tried again.
func TestExtension(t *testing.T) {
	dir := t.TempDir()
	seen, flag := filepath.Join(dir, "seen"), filepath.Join(dir, "flag")
	c := newCluster(t, fmt.Sprintf(`{"Network":"10.244.0.0/16","Backend":{"Type":"extension",
		"PreStartupCommand":"echo hello; echo noise >&2",
		"PostStartupCommand":"echo start $NETWORK $PUBLIC_IP >> %[1]s",
		"SubnetAddCommand":"ls %[2]s && echo add $SUBNET $PUBLIC_IP $(cat) >> %[1]s",
		"SubnetRemoveCommand":"echo remove $SUBNET >> %[1]s"}}`, seen, flag))
	n := c.node(1).start()
	n.waitReady()
	if value, _ := c.get(n.key()); value != `{"PublicIP":"172.16.1.1","PublicIPv6":null,"BackendType":"extension","BackendData":"hello"}` {
		t.Errorf("the lease is %s", value)
	}
	c.put(leases+"10.244.2.0-24", `{"PublicIP":"172.16.1.2","PublicIPv6":null,"BackendType":"extension","BackendData":"peer"}`)
	n.eventually("/readyz names the command", func() error {
		ok, text := n.ready()
		if ok || !strings.Contains(text, "backend: SubnetAddCommand for 10.244.2.0-24: exit status") || !strings.Contains(text, "No such file") {
			return errors.New(text)
		}
		return nil
	})
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.waitReady()
	c.del(leases + "10.244.2.0-24")
	n.eventually("the peer is removed", func() error {
		if got := n.file(seen); got != "start 10.244.0.0/16 172.16.1.1\nadd 10.244.2.0/24 172.16.1.2 peer\nremove 10.244.2.0/24\n" {
			return errors.New(got)
		}
		return nil
	})
	if got := strings.Count(n.said(), "not ready: backend"); got != 1 {
		t.Errorf("the log tells %d times of one failure", got)
	}
}

// TestExtensionThatCannotStart leaves no lease behind.
func TestExtensionThatCannotStart(t *testing.T) {
	c := newCluster(t, `{"Network":"10.244.0.0/16","Backend":{"Type":"extension","PreStartupCommand":"echo no such device; exit 2"}}`)
	n := c.node(1).start()
	if err := n.cmd.Wait(); err == nil {
		t.Error("the agent ran")
	}
	n.cmd = nil
	if !strings.Contains(n.said(), "PreStartupCommand: exit status 2: no such device") {
		t.Error(n.said())
	}
	if r, err := c.etcd.Client.Get(t.Context(), leases, clientv3.WithPrefix()); err != nil || len(r.Kvs) > 0 {
		t.Errorf("it left a lease behind (%v)", err)
	}
}
