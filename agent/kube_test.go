package agent_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/overlab/overlab/internal/kubetest"
)

// kubeAddress is where the API server serves: on the bridge, beside etcd.
const kubeAddress = "172.16.0.254:6443"

// flannelPrefix begins the annotations.
const flannelPrefix = "flannel.alpha.coreos.com/"

// kubeCluster is a cluster whose leases are in the Kubernetes API: machine n is
// node-n, and its podCIDR is 10.244.n.0/24.
//
//	   br0 172.16.0.254/16, API server
//	    |        |        |        |
//	  .1.1     .1.2     .1.3     .1.4
//	    |        |        |        |
//	 node-1   node-2   node-3   node-4
//	overlabd overlabd overlabd  by hand
type kubeCluster struct {
	*cluster
	api *kubetest.Server
	t   *testing.T
}

func newKubeCluster(t *testing.T, start kubetest.Start) *kubeCluster {
	t.Helper()
	c := newCluster(t, "")
	return &kubeCluster{cluster: c, api: start(t, kubeAddress), t: t}
}

// podCIDR is machine n's.
func podCIDR(n int) string { return fmt.Sprintf("10.244.%d.0/24", n) }

func nodeName(n int) string { return fmt.Sprintf("node-%d", n) }

// member makes machine n, whose agent will have its leases in the API.
func (c *kubeCluster) member(n int, netConf string, args ...string) *node {
	c.Helper()
	path := filepath.Join(c.TempDir(), "net-conf.json")
	if err := os.WriteFile(path, []byte(netConf), 0o644); err != nil {
		c.Fatal(err)
	}
	nd := c.node(n)
	nd.args = append([]string{
		"--kube-subnet-mgr", "--kubeconfig-file=" + c.api.Kubeconfig, "--net-config-path=" + path, "--iface=eth0",
		"--healthz-port=8080", "--healthz-ip=127.0.0.1", "--subnet-file=" + nd.subnetFile,
	}, args...)
	nd.env = []string{"NODE_NAME=" + nodeName(n)}
	return nd
}

// annotations returns the annotations of machine n that are flannel's.
func (c *kubeCluster) annotations(n int) map[string]string {
	c.Helper()
	out := map[string]string{}
	for key, value := range c.api.Node(c.t, nodeName(n)).Annotations {
		if rest, ok := strings.CutPrefix(key, flannelPrefix); ok {
			out[rest] = value
		}
	}
	return out
}

// announced waits for the condition of machine n.
func (c *kubeCluster) announced(n int) {
	c.Helper()
	c.eventually("the condition", func() error {
		conditions := c.api.Node(c.t, nodeName(n)).Status.Conditions
		if len(conditions) != 1 || conditions[0].Type != corev1.NodeNetworkUnavailable || conditions[0].Status != corev1.ConditionFalse {
			return fmt.Errorf("conditions %v", conditions)
		}
		return nil
	})
}

const kubeNetConf = `{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`

// TestKube is the life of one cluster, against a fake API and a real one.
func TestKube(t *testing.T) {
	kubetest.Each(t, func(t *testing.T, start kubetest.Start) {
		c := newKubeCluster(t, start)
		var nodes []*node
		for n := 1; n <= 3; n++ {
			c.api.AddNode(t, nodeName(n), podCIDR(n))
			nodes = append(nodes, c.member(n, kubeNetConf).start())
		}
		for _, n := range nodes {
			n.picture().wait(t, 2)
			n.waitReady()
		}
		kubeMesh(c, nodes)
		kubeNodeByHand(c, nodes)
		kubeTampering(c, nodes[0])
		kubeMACStays(c, nodes[1], nodes[0])
		kubeNodeDeleted(c, nodes[0])
		kubeOutage(c, nodes[0], nodes[1])
		for _, n := range nodes {
			n.stop()
		}
	})
}

func kubeMesh(c *kubeCluster, nodes []*node) {
	for i, n := range nodes {
		if got := n.subnet().String(); got != podCIDR(i+1) {
			c.Errorf("node %d has the subnet %s", i+1, got)
		}
		if d := cmp.Diff(map[string]string{
			"kube-subnet-manager": "true", "backend-type": "vxlan", "public-ip": n.ip.String(),
			"backend-data": fmt.Sprintf(`{"VNI":1,"VtepMAC":"%s"}`, n.mac()),
		}, c.annotations(i+1)); d != "" {
			c.Errorf("annotations of node %d (-flannel's +got):\n%s", i+1, d)
		}
		c.announced(i + 1)
		for _, peer := range nodes {
			if peer != n {
				n.sh(fmt.Sprintf("ping -c1 -W5 %s", peer.subnet().Addr()))
			}
		}
	}
}

// kubeNodeByHand: a node of which somebody wrote the annotations, and
// programmed the kernel, is one of the overlay.
func kubeNodeByHand(c *kubeCluster, nodes []*node) {
	hand := c.node(4)
	const mac = "02:00:00:00:00:04"
	hand.sh("ip link add flannel.1 address " + mac + " mtu 1450 type vxlan id 1 local 172.16.1.4 dev eth0 dstport 8472 nolearning;" +
		"ip addr add 10.244.4.0/32 dev flannel.1; ip link set flannel.1 up")
	for _, n := range nodes {
		hand.sh(fmt.Sprintf("ip neigh add %[1]s lladdr %[2]s dev flannel.1 nud permanent; bridge fdb add %[2]s dev flannel.1 dst %[3]s;"+
			"ip route add %[4]s via %[1]s dev flannel.1 onlink", n.subnet().Addr(), n.mac(), n.ip, n.subnet()))
	}
	c.api.AddNode(c.t, nodeName(4), podCIDR(4))
	c.api.Annotate(c.t, nodeName(4), map[string]any{
		flannelPrefix + "kube-subnet-manager": "true", flannelPrefix + "backend-type": "vxlan",
		flannelPrefix + "backend-data": `{"VNI":1,"VtepMAC":"` + mac + `"}`, flannelPrefix + "public-ip": "172.16.1.4",
	})
	for _, n := range nodes {
		n.picture().wait(c.t, 3)
		n.sh("ping -c1 -W5 10.244.4.0")
		hand.sh(fmt.Sprintf("ping -c1 -W5 %s", n.subnet().Addr()))
	}
}

// kubeTampering alters the node's own annotations: they come back. (Flannel
// writes them once, at its start.)
func kubeTampering(c *kubeCluster, n *node) {
	want := c.annotations(1)
	for _, tamper := range []map[string]any{
		{flannelPrefix + "backend-data": `{"VNI":1,"VtepMAC":"02:00:00:00:00:77"}`},
		{flannelPrefix + "backend-data": `{`},
		{flannelPrefix + "public-ip": "172.16.1.99"},
		{flannelPrefix + "kube-subnet-manager": nil},
		{flannelPrefix + "kube-subnet-manager": nil, flannelPrefix + "backend-type": nil, flannelPrefix + "backend-data": nil, flannelPrefix + "public-ip": nil},
		{flannelPrefix + "backend-v6-data": `{"VNI":1}`},
	} {
		c.api.Annotate(c.t, nodeName(1), tamper)
		c.eventually(fmt.Sprintf("the annotations return after %v", tamper), func() error {
			if d := cmp.Diff(want, c.annotations(1)); d != "" {
				return errors.New(d)
			}
			return nil
		})
	}
	n.waitReady()
}

// kubeMACStays: the annotation remembers the MAC address of a device that is
// gone, as after a reboot, so that no peer need learn another.
func kubeMACStays(c *kubeCluster, n, peer *node) {
	mac, version := n.mac(), c.api.Node(c.t, nodeName(2)).ResourceVersion
	n.stop()
	n.sh("ip link del flannel.1")
	n.start()
	n.picture().wait(c.t, 3)
	n.waitReady()
	if got := n.mac(); got != mac {
		c.Errorf("the MAC address is %s, no longer %s", got, mac)
	}
	if got := c.api.Node(c.t, nodeName(2)).ResourceVersion; got != version {
		c.Errorf("the node was written: version %s, before %s", got, version)
	}
	peer.sh(fmt.Sprintf("ping -c1 -W5 %s", n.subnet().Addr()))
}

func kubeNodeDeleted(c *kubeCluster, n *node) {
	p := n.picture()
	p.wait(c.t, 3)
	c.api.DeleteNode(c.t, nodeName(4))
	p.wait(c.t, 2)
	if mesh := n.mesh(); strings.Contains(mesh, "10.244.4.0") || strings.Contains(mesh, "172.16.1.4") {
		c.Errorf("of the deleted node there is left:\n%s", mesh)
	}
}

// kubeOutage: while the API is gone, traffic goes on, the kernel is repaired,
// and an agent that is killed and started again leaves all as it is.
func kubeOutage(c *kubeCluster, n, peer *node) {
	p, whole := n.picture(), n.mesh()
	p.wait(c.t, 2)
	flow := make(chan string, 1)
	go func() {
		flow <- n.sh(fmt.Sprintf("ping -q -i0.01 -c%d %s | grep transmitted", 300, peer.subnet().Addr()))
	}()
	c.api.Stop()
	c.eventually("readyz tells of the store", func() error {
		if ok, body := n.ready(); ok || !strings.Contains(body, "store: ") {
			return errors.New(body)
		}
		return nil
	})
	peer.kill()
	peer.start()
	if got := <-flow; !strings.Contains(got, " 0% packet loss") {
		c.Errorf("while the API was gone: %s", got)
	}
	n.sh("ip route flush dev flannel.1")
	p.wait(c.t, 2)
	if d := cmp.Diff(whole, n.mesh()); d != "" {
		c.Errorf("without the API (-before +after):\n%s", d)
	}
	c.api.Restart(c.t)
	n.waitReady()
	peer.waitReady()
	c.api.AddNode(c.t, nodeName(5), podCIDR(5))
	c.api.Annotate(c.t, nodeName(5), map[string]any{
		flannelPrefix + "kube-subnet-manager": "true", flannelPrefix + "backend-type": "vxlan",
		flannelPrefix + "backend-data": `{"VNI":1,"VtepMAC":"02:00:00:00:00:05"}`, flannelPrefix + "public-ip": "172.16.1.5",
	})
	p.wait(c.t, 3)
}

// TestKubeLatePodCIDR: the agent waits for what kube-controller-manager has not
// assigned yet, where flannel exits, and says so. The subnets are /26 while the
// configuration allocates by /24, and routes on the node's own interface are
// owned all the same.
func TestKubeLatePodCIDR(t *testing.T) {
	c := newKubeCluster(t, kubetest.Fake)
	n := c.member(1, `{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}`).start()
	waits := func(what string) {
		t.Helper()
		c.eventually("the agent says what is missing", func() error {
			if ok, body := n.ready(); ok || !strings.Contains(body, what) {
				return errors.New(body)
			}
			return nil
		})
	}
	waits(`lease: read node node-1: nodes "node-1" not found`)
	c.api.AddNode(t, "node-1")
	waits("lease: node node-1 has no podCIDR yet: kube-controller-manager assigns it, with --allocate-node-cidrs and --cluster-cidr")
	c.api.SetPodCIDRs(t, "node-1", "10.244.1.64/26")
	n.waitReady()
	if got := n.subnet().String(); got != "10.244.1.64/26" {
		t.Errorf("the subnet is %s", got)
	}
	if got := c.annotations(1); got["backend-data"] != "null" || got["backend-type"] != "host-gw" {
		t.Errorf("annotations %v", got)
	}
	c.api.AddNode(t, "node-2", "10.244.2.64/26")
	c.api.Annotate(t, "node-2", map[string]any{
		flannelPrefix + "kube-subnet-manager": "true", flannelPrefix + "backend-type": "host-gw",
		flannelPrefix + "backend-data": "null", flannelPrefix + "public-ip": "172.16.1.2",
	})
	routed := func(want string) {
		t.Helper()
		c.eventually("the routes are "+want, func() error {
			if got := n.sh("ip -o route show root 10.244.0.0/16 | awk '{print $1, $2, $3}'"); got != want {
				return errors.New(got)
			}
			return nil
		})
	}
	routed("10.244.2.64/26 via 172.16.1.2")
	n.sh("ip route replace 10.244.2.64/26 via 172.16.1.3")
	routed("10.244.2.64/26 via 172.16.1.2")
	c.api.DeleteNode(t, "node-2")
	routed("")
	// The node itself is deleted and made anew, with another subnet.
	c.api.DeleteNode(t, "node-1")
	waits(`lease: read node node-1: nodes "node-1" not found`)
	c.api.AddNode(t, "node-1", "10.244.9.64/26")
	n.waitReady()
	c.eventually("subnet.env names the new subnet", func() error {
		if got := n.subnet(); got != netip.MustParsePrefix("10.244.9.64/26") {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
	c.announced(1)
}

// TestKubePublicIP: the node's annotation says which address to use, and
// another which to publish.
func TestKubePublicIP(t *testing.T) {
	c := newKubeCluster(t, kubetest.Fake)
	c.api.AddNode(t, "node-1", podCIDR(1))
	c.api.Annotate(t, "node-1", map[string]any{
		flannelPrefix + "node-public-ip": "172.16.1.100", flannelPrefix + "public-ip-overwrite": "203.0.113.1",
	})
	n := c.member(1, kubeNetConf)
	n.sh("ip addr add 172.16.1.100/16 dev eth0")
	n.start().waitReady()
	if link := n.sh("ip -d -o link show flannel.1"); !strings.Contains(link, "local 172.16.1.100 ") {
		t.Errorf("the device is %s", link)
	}
	if got := c.annotations(1)["public-ip"]; got != "203.0.113.1" {
		t.Errorf("published %s", got)
	}
}
