package kubernetes

import (
	"net/netip"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/overlab/overlab/topology"
)

const (
	nodesAt      = "/api/v1/nodes"
	daemonSetsAt = "/apis/apps/v1/namespaces/%/daemonsets"
	configMapsAt = "/api/v1/namespaces/%/configmaps"
)

func at(path, namespace string) string { return strings.Replace(path, "%", namespace, 1) }

// node is a node that is ready, changed.
func node(name, address, podCIDR string, change ...func(*corev1.Node)) runtime.Object {
	n := &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelOSStable: "linux"}},
		Spec:       corev1.NodeSpec{PodCIDR: podCIDR},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: address}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
	for _, c := range change {
		c(n)
	}
	return n
}

func controlPlane(n *corev1.Node) { n.Labels["node-role.kubernetes.io/control-plane"] = "" }

func leased(n *corev1.Node) {
	n.Annotations = map[string]string{"flannel.alpha.coreos.com/kube-subnet-manager": "true"}
}

// daemonSet is one with host folders.
func daemonSet(namespace, name string, labels map[string]string, args []string, folders ...string) runtime.Object {
	s := &appsv1.DaemonSet{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "DaemonSet"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: appsv1.DaemonSetSpec{Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "registry:5000/" + name + ":v1.2", Args: args}}},
		}},
	}
	for _, f := range folders {
		s.Spec.Template.Spec.Volumes = append(s.Spec.Template.Spec.Volumes, corev1.Volume{
			Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: f}},
		})
	}
	return s
}

func configMap(namespace, name string, data map[string]string) runtime.Object {
	return &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Data: data}
}

// TestDiscover: what the API tells of clusters as they are found.
func TestDiscover(t *testing.T) {
	two := []runtime.Object{node("w", "10.0.0.2", "10.244.1.0/24", leased), node("m", "10.0.0.1", "10.244.0.0/24", leased, controlPlane)}
	for name, c := range map[string]struct {
		objects map[string][]runtime.Object
		want    Network
	}{
		"flannel": {
			map[string][]runtime.Object{
				nodesAt: two,
				at(daemonSetsAt, "kube-flannel"): {
					daemonSet("kube-flannel", "kube-flannel-ds", nil, []string{"--ip-masq", "--kube-subnet-mgr"}, "/run/flannel", "/etc/cni/net.d", "/run/xtables.lock"),
				},
				at(daemonSetsAt, "kube-system"):  {daemonSet("kube-system", "kube-proxy", map[string]string{"k8s-app": "kube-proxy"}, nil)},
				at(configMapsAt, "kube-flannel"): {configMap("kube-flannel", "kube-flannel-cfg", map[string]string{"net-conf.json": `{"Network": "10.244.0.0/16"}`})},
			},
			Network{
				Plugin: "flannel", DaemonSet: "kube-flannel/kube-flannel-ds", Image: "registry:5000/kube-flannel-ds:v1.2", Masquerades: true,
				NetConfIn: "kube-flannel/kube-flannel-cfg", Folders: []string{"/run/flannel", "/etc/cni/net.d"},
				Pods: netip.MustParsePrefix("10.244.0.0/16"), PodsFrom: "net-conf.json of kube-flannel/kube-flannel-cfg",
			},
		},
		"overlab, and kube-proxy's word on the pods": {
			map[string][]runtime.Object{
				nodesAt:                            two,
				at(daemonSetsAt, "overlab-system"): {daemonSet("overlab-system", "overlabd", nil, nil, "/run/flannel")},
				at(configMapsAt, "kube-system"):    {configMap("kube-system", "kube-proxy", map[string]string{"config.conf": "clusterCIDR: fd00::/56,10.240.0.0/12\n"})},
			},
			Network{
				Plugin: "overlab", DaemonSet: "overlab-system/overlabd", Image: "registry:5000/overlabd:v1.2", Folders: []string{"/run/flannel"},
				Pods: netip.MustParsePrefix("10.240.0.0/12"), PodsFrom: "kube-proxy's configuration",
			},
		},
		"calico by its label, and kubeadm's word": {
			map[string][]runtime.Object{
				nodesAt: two,
				at(daemonSetsAt, "calico-system"): {
					daemonSet("calico-system", "node", map[string]string{"k8s-app": "calico-node"}, nil, "/var/lib/rancher/k3s/agent/etc/cni/net.d"),
				},
				at(configMapsAt, "kube-system"): {configMap("kube-system", "kubeadm-config", map[string]string{"ClusterConfiguration": "networking: {podSubnet: 192.168.0.0/16}\n"})},
			},
			Network{
				Plugin: "calico", DaemonSet: "calico-system/node", Image: "registry:5000/node:v1.2", Folders: []string{"/var/lib/rancher/k3s/agent/etc/cni/net.d"},
				Pods: netip.MustParsePrefix("192.168.0.0/16"), PodsFrom: "kubeadm-config",
			},
		},
		"nothing that is known": {
			map[string][]runtime.Object{nodesAt: two},
			Network{Pods: netip.MustParsePrefix("10.244.0.0/23"), PodsFrom: "the nodes' podCIDRs"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, a := newFake(t, c.objects)
			d, err := discover(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			got := *d.Network
			got.NetConf = nil
			if !same(got, c.want) {
				t.Errorf("%+v\nwant %+v", got, c.want)
			}
			if d.Version != "v1.33.13" || len(d.Nodes) != 2 || d.Nodes[0].Name != "m" || d.Nodes[0].Role != topology.ControlPlane || !d.Nodes[0].Leased ||
				d.Nodes[1].Address != netip.MustParseAddr("10.0.0.2") || d.Nodes[1].PodCIDR != netip.MustParsePrefix("10.244.1.0/24") {
				t.Errorf("%s, %+v", d.Version, d.Nodes)
			}
		})
	}
}

func same(a, b Network) bool {
	a.Folders, b.Folders = []string{strings.Join(a.Folders, " ")}, []string{strings.Join(b.Folders, " ")}
	return a.Folders[0] == b.Folders[0] && a.Plugin == b.Plugin && a.DaemonSet == b.DaemonSet && a.Image == b.Image &&
		a.NetConfIn == b.NetConfIn && a.Masquerades == b.Masquerades && a.Pods == b.Pods && a.PodsFrom == b.PodsFrom
}

// TestLeftOut: nodes on which no probe can run are left out, with why; a cluster
// of none but these is none.
func TestLeftOut(t *testing.T) {
	windows := node("win", "10.0.0.3", "", func(n *corev1.Node) { n.Labels[corev1.LabelOSStable] = "windows" })
	ill := node("ill", "10.0.0.4", "", func(n *corev1.Node) {
		n.Status.Conditions[0].Status, n.Status.Conditions[0].Message = corev1.ConditionUnknown, "kubelet stopped posting node status"
	})
	six := node("six", "fd00::5", "")
	_, a := newFake(t, map[string][]runtime.Object{nodesAt: {windows, ill, six, node("w", "10.0.0.2", "")}})
	d, err := discover(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	want := "ill: it is not ready: kubelet stopped posting node status; six: it has no internal IPv4 address; win: its system is windows"
	if got := strings.Join(d.LeftOut, "; "); got != want || len(d.Nodes) != 1 {
		t.Errorf("%s, %+v", got, d.Nodes)
	}
	if d.Network.Pods.IsValid() || d.Nodes[0].PodCIDR.IsValid() {
		t.Errorf("a network of its pods: %s", d.Network.Pods)
	}
	_, a = newFake(t, map[string][]runtime.Object{nodesAt: {ill}})
	if _, err := discover(t.Context(), a); err == nil || !strings.Contains(err.Error(), "ill: it is not ready") {
		t.Errorf("no node at all: %v", err)
	}
}

// TestPlan: the plan has two pods a node, and an agent on none of a plugin's that
// is not flannel's.
func TestPlan(t *testing.T) {
	d := &Discovery{
		Network: &Network{Plugin: "flannel", Masquerades: true, Pods: netip.MustParsePrefix("10.244.0.0/16")},
		Nodes:   []Node{{Name: "m", Address: netip.MustParseAddr("10.0.0.1"), Leased: true}, {Name: "w", Address: netip.MustParseAddr("10.0.0.2"), Leased: true}},
	}
	p := d.plan("arn:aws:eks:eu-1:123:cluster/Prod")
	if p.Name != "arn-aws-eks-eu-1-123-cluster-prod" || !p.Existing || p.Store.Type != "kubernetes" || len(p.Pods) != 4 || p.Pods[2].Node != "w" {
		t.Errorf("%+v", p)
	}
	if a := p.Nodes[0].Agent; a.ByHand || !a.IPMasq {
		t.Errorf("flannel's agent: %+v", a)
	}
	d.Network.Plugin, d.Nodes[0].Leased, d.Nodes[1].Leased = "cilium", false, false
	if p := d.plan("x"); !p.Nodes[0].Agent.ByHand || p.Store.Type != "" {
		t.Errorf("cilium's: %+v, store %q", p.Nodes[0].Agent, p.Store.Type)
	}
}

func TestCover(t *testing.T) {
	for want, cidrs := range map[string][]string{
		"10.244.0.0/24": {"10.244.0.0/24"},
		"10.244.0.0/22": {"10.244.1.0/24", "10.244.2.0/24"},
		"10.0.0.0/8":    {"10.1.0.0/24", "10.244.0.0/25", "10.2.0.0/16"},
	} {
		var nodes []corev1.Node
		for _, c := range cidrs {
			nodes = append(nodes, *node("n", "10.0.0.1", c).(*corev1.Node))
		}
		if got := cover(nodes); got.String() != want {
			t.Errorf("%v: %s, want %s", cidrs, got, want)
		}
	}
}

func TestAgent(t *testing.T) {
	for image, want := range map[string][2]string{
		"registry:5000/flannel/flannel:v0.27.0": {"flannel", "v0.27.0"}, "registry:5000/flannel": {"flannel", ""}, "f:v1@sha256:00ff": {"f", "v1"},
		"f@sha256:00ff": {"f", ""},
	} {
		if name, version := (&Network{Image: image}).Agent(); [2]string{name, version} != want {
			t.Errorf("%s: %q %q, want %q", image, name, version, want)
		}
	}
}
