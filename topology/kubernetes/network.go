package kubernetes

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// Network is what the API tells of a cluster's pod network. Nothing of it was
// seen at work.
type Network struct {
	// Plugin is the network's name, as flannel; empty where no DaemonSet is
	// known to be one.
	Plugin string
	// DaemonSet is its namespace and name, Image that of its first container.
	DaemonSet, Image string
	// NetConf is flannel's net-conf.json, NetConfIn the ConfigMap that has it.
	NetConf   []byte
	NetConfIn string
	// Masquerades says that the agent has --ip-masq.
	Masquerades bool
	// Folders are those of the nodes that the plugin writes its configuration
	// and state to: they are there on each.
	Folders []string
	// Pods is the pods' network, invalid where nothing tells it, and PodsFrom
	// who does.
	Pods     netip.Prefix
	PodsFrom string
}

// Agent is what the image is called, and its tag, empty where it has none.
func (n *Network) Agent() (name, version string) {
	image, _, _ := strings.Cut(path.Base(n.Image), "@")
	name, version, _ = strings.Cut(image, ":")
	return name, version
}

// flannels reports whether the plugin is flannel or one that stands in for it,
// with leases in the nodes' annotations.
func (n *Network) flannels() bool { return n.Plugin == "flannel" || n.Plugin == "overlab" }

// plugins are pod networks by the names or labels of their DaemonSets. More
// than one may run; those that wire pods come before those that only route.
func plugins() []struct{ name, set, key, value string } {
	return []struct{ name, set, key, value string }{
		{"overlab", "overlabd", "app.kubernetes.io/name", "overlab"},
		{"canal", "canal", "k8s-app", "canal"},
		{"flannel", "kube-flannel-ds", "app", "flannel"},
		{"calico", "calico-node", "k8s-app", "calico-node"},
		{"cilium", "cilium", "k8s-app", "cilium"},
		{"kindnet", "kindnet", "k8s-app", "kindnet"},
		{"antrea", "antrea-agent", "component", "antrea-agent"},
		{"weave", "weave-net", "name", "weave-net"},
		{"kube-router", "kube-router", "k8s-app", "kube-router"},
		{"ovn-kubernetes", "ovnkube-node", "app", "ovnkube-node"},
		{"amazon-vpc-cni", "aws-node", "k8s-app", "aws-node"},
		{"azure-cni", "azure-cns", "k8s-app", "azure-cns"},
	}
}

// network asks the API for the pod network.
func network(ctx context.Context, a *api, nodes []corev1.Node) (*Network, error) {
	out := new(Network)
	var sets appsv1.DaemonSetList
	if err := a.list(ctx, daemonSetResource(), "", "", &sets); err != nil {
		return nil, fmt.Errorf("list the cluster's DaemonSets: %w", err)
	}
	set := out.plugin(sets.Items)
	if set != nil {
		if err := out.configuration(ctx, a, set.Namespace); err != nil {
			return nil, err
		}
	}
	out.pods(ctx, a, nodes, set)
	return out, nil
}

// plugin finds the DaemonSet that is the pod network.
func (n *Network) plugin(sets []appsv1.DaemonSet) *appsv1.DaemonSet {
	for _, known := range plugins() {
		for i := range sets {
			s := &sets[i]
			if s.Name != known.set && !strings.HasPrefix(s.Name, known.set+"-") && s.Spec.Template.Labels[known.key] != known.value {
				continue
			}
			n.Plugin, n.DaemonSet = known.name, s.Namespace+"/"+s.Name
			pod := &s.Spec.Template.Spec
			for _, c := range pod.Containers {
				n.Image = cmp.Or(n.Image, c.Image)
				for _, arg := range slices.Concat(c.Command, c.Args) {
					n.Masquerades = n.Masquerades || strings.TrimLeft(arg, "-") == "ip-masq" || strings.TrimLeft(arg, "-") == "ip-masq=true"
				}
			}
			for _, v := range pod.Volumes {
				if v.HostPath == nil {
					continue
				}
				if p := path.Clean(v.HostPath.Path); p == subnetFolder || strings.HasSuffix(p, "/cni/net.d") {
					n.Folders = append(n.Folders, p)
				}
			}
			return s
		}
	}
	return nil
}

// subnetFolder is where flannel writes subnet.env.
const subnetFolder = "/run/flannel"

// configuration finds flannel's net-conf.json among the plugin's ConfigMaps.
func (n *Network) configuration(ctx context.Context, a *api, namespace string) error {
	var maps corev1.ConfigMapList
	if err := a.list(ctx, configMapResource(), namespace, "", &maps); err != nil {
		return fmt.Errorf("list the ConfigMaps of %s: %w", namespace, err)
	}
	for _, m := range maps.Items {
		if text, ok := m.Data["net-conf.json"]; ok {
			n.NetConf, n.NetConfIn = []byte(text), m.Namespace+"/"+m.Name
			return nil
		}
	}
	return nil
}

// pods finds the pods' network: who asked for it comes before what was made of
// it. That something cannot be read leaves it to the next.
func (n *Network) pods(ctx context.Context, a *api, nodes []corev1.Node, set *appsv1.DaemonSet) {
	take := func(text, from string) {
		for _, part := range strings.Split(text, ",") {
			if p, err := netip.ParsePrefix(strings.TrimSpace(part)); err == nil && p.Addr().Is4() && !n.Pods.IsValid() {
				n.Pods, n.PodsFrom = p.Masked(), from
			}
		}
	}
	var conf struct{ Network string }
	if json.Unmarshal(n.NetConf, &conf) == nil {
		take(conf.Network, "net-conf.json of "+n.NetConfIn)
	}
	var m corev1.ConfigMap
	if a.get(ctx, configMapResource(), "kube-system", "kubeadm-config", &m) == nil {
		var kubeadm struct {
			Networking struct {
				PodSubnet string `json:"podSubnet"`
			} `json:"networking"`
		}
		if yaml.Unmarshal([]byte(m.Data["ClusterConfiguration"]), &kubeadm) == nil {
			take(kubeadm.Networking.PodSubnet, "kubeadm-config")
		}
	}
	m = corev1.ConfigMap{}
	if a.get(ctx, configMapResource(), "kube-system", "kube-proxy", &m) == nil {
		var proxy struct {
			ClusterCIDR string `json:"clusterCIDR"`
		}
		if yaml.Unmarshal([]byte(m.Data["config.conf"]), &proxy) == nil {
			take(proxy.ClusterCIDR, "kube-proxy's configuration")
		}
	}
	if set != nil {
		for _, c := range set.Spec.Template.Spec.Containers {
			for _, e := range c.Env {
				if e.Name == "POD_SUBNET" || e.Name == "CALICO_IPV4POOL_CIDR" {
					take(e.Value, e.Name+" of "+n.DaemonSet)
				}
			}
		}
	}
	if p := cover(nodes); p.IsValid() {
		take(p.String(), "the nodes' podCIDRs")
	}
}

// cover is the smallest prefix that has all nodes' subnets in it.
func cover(nodes []corev1.Node) netip.Prefix {
	var out netip.Prefix
	for i := range nodes {
		p := podCIDR(&nodes[i])
		switch {
		case !p.IsValid():
			continue
		case !out.IsValid():
			out = p
		}
		for !out.Contains(p.Addr()) || out.Bits() > p.Bits() {
			out = netip.PrefixFrom(out.Addr(), min(out.Bits(), p.Bits()+1)-1).Masked()
		}
	}
	return out
}
