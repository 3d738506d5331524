package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/overlab/overlab/topology"
)

// pluginsFolder holds the folders of CNI plugins as every process of the lab
// sees them: 0, 1 … for those that the spec names, then the bundled ones.
const pluginsFolder = labFolder + "/cni"

// bundledPlugins are the types that overlab-cni serves. It reads the
// configuration of flannel's plugin, and so takes its place unless the spec's
// folders have the real one.
var bundledPlugins = []string{"overlab-cni", "flannel"}

// pluginPath are the folders in which the plan's plugins are looked up.
func pluginPath(p *topology.Plan) []string {
	var path []string
	for i := range p.CNI.PluginDirs {
		path = append(path, filepath.Join(pluginsFolder, fmt.Sprint(i)))
	}
	return append(path, filepath.Join(pluginsFolder, "bundled"))
}

// checkPlugins names what the plan's configuration list asks for and this
// machine has not.
func (p *Provider) checkPlugins(plan *topology.Plan) error {
	if plan.CNI.Conflist == nil {
		return nil
	}
	var errs []error
	for i, dir := range plan.CNI.PluginDirs {
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			errs = append(errs, fmt.Errorf("spec.cni.pluginDirs[%d]: there is no folder %s", i, dir))
		}
	}
	text, err := plan.ConflistOn(&plan.Nodes[0])
	if err != nil {
		return err
	}
	list, err := libcni.NetworkConfFromBytes(text)
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("spec.cni.conflist: %w", err))...)
	}
	for _, name := range pluginsOf(list) {
		_, err := findIn(strings.Join(plan.CNI.PluginDirs, string(filepath.ListSeparator)), name)
		switch {
		case err == nil:
		case !slices.Contains(bundledPlugins, name):
			where := "spec.cni.pluginDirs names no folder"
			if len(plan.CNI.PluginDirs) > 0 {
				where = "it is not in " + strings.Join(plan.CNI.PluginDirs, ", ")
			}
			errs = append(errs, fmt.Errorf("spec.cni.conflist: the plugin %s is missing: %s; install it there, or add its folder to spec.cni.pluginDirs", name, where))
		case p.Programs["overlab-cni"] == "":
			errs = append(errs, fmt.Errorf("spec.cni.conflist: the plugin %s is missing: overlab-cni is neither beside overlab nor in PATH: run `make build`, or `go install github.com/overlab/overlab/cmd/...`", name))
		}
	}
	return errors.Join(errs...)
}

// bundledList is the configuration of the pods that the bundled plugin wires,
// where the spec has no list of its own.
const bundledList = `{"cniVersion":"1.1.0","name":"cbr0","plugins":[{"type":"overlab-cni","delegate":{"hairpinMode":true,"isDefaultGateway":true}}]}`

// Plugins returns the configuration list of a node, and the folders of its
// plugins as processes inside the lab see them. A lab whose pods the library has
// wired may lack the plugin.
func (l *insideLab) Plugins(node string) (list []byte, path []string, err error) {
	if l.plan.CNI.Conflist == nil {
		if _, err := os.Stat(filepath.Join(pluginsFolder, "bundled", "overlab-cni")); err != nil {
			return nil, nil, fmt.Errorf("the lab came up without the plugin overlab-cni, which was neither beside overlab nor in PATH: run `make build`, or `go install github.com/overlab/overlab/cmd/...`, and bring the lab up again: %w", err)
		}
		return []byte(bundledList), pluginPath(l.plan), nil
	}
	n := l.plan.Node(node)
	if n == nil {
		return nil, nil, known(l.plan, node)
	}
	list, err = l.plan.ConflistOn(n)
	return list, pluginPath(l.plan), err
}

// pluginsOf lists the executables that a list names, each once: its plugins,
// and the address managers and delegates that they call.
func pluginsOf(list *libcni.NetworkConfigList) []string {
	var names []string
	add := func(name string) {
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, p := range list.Plugins {
		add(p.Network.Type)
		if slices.Contains(bundledPlugins, p.Network.Type) {
			continue // what they fill in themselves, the list need not name
		}
		add(p.Network.IPAM.Type)
	}
	return names
}

// openPlugins opens the host's folders of plugins, which the lab's mounts may
// hide.
func openPlugins(p *topology.Plan) (map[string]int, error) {
	folders := map[string]string{}
	for i, dir := range p.CNI.PluginDirs {
		folders[fmt.Sprint(i)] = dir
	}
	return openPrograms(folders)
}

// linkPlugins puts the folders where the lab's processes see them.
func linkPlugins(folders, programs map[string]int) error {
	bundled := filepath.Join(pluginsFolder, "bundled")
	if err := os.MkdirAll(bundled, 0o755); err != nil {
		return fmt.Errorf("make the folder of the CNI plugins: %w", err)
	}
	if err := linkPrograms(pluginsFolder, folders); err != nil {
		return err
	}
	own, ok := programs["overlab-cni"]
	if !ok {
		return nil
	}
	served := map[string]int{}
	for _, name := range bundledPlugins {
		served[name] = own
	}
	return linkPrograms(bundled, served)
}

// conflistFile is the list's file in a node's /etc/cni/net.d, named as
// kubeadm's manifests name theirs.
func conflistFile(p *topology.Plan) string {
	return fmt.Sprintf("10-%s.conflist", p.CNI.Conflist["name"])
}

// runPlugins wires a node's pods as a container runtime would: by the list in
// the node's /etc/cni/net.d, through libcni, with the plugins as executables
// on the node. Where an ADD fails, a DEL follows, as the specification demands.
func (l *lab) runPlugins(ctx context.Context, n *topology.Node, pods []topology.Pod) error {
	text, err := l.plan.ConflistOn(n)
	if err != nil {
		return err
	}
	list, err := libcni.NetworkConfFromBytes(text)
	if err != nil {
		return fmt.Errorf("read the CNI configuration: %w", err)
	}
	exec, err := newPluginExec(l, n.Name)
	if err != nil {
		return err
	}
	defer exec.log.Close()
	runtime := libcni.NewCNIConfigWithCacheDir(pluginPath(l.plan), "", exec)
	for i := range pods {
		pod := &pods[i]
		rt := runtimeConf(pod)
		result, err := runtime.AddNetworkList(ctx, list, rt)
		if err == nil {
			err = asPlanned(pod, result)
		}
		if err != nil {
			if undone := runtime.DelNetworkList(ctx, list, rt); undone != nil {
				err = fmt.Errorf("%w; and its DEL failed: %w", err, undone)
			}
			return fmt.Errorf("ADD of pod %s to the CNI network %s: %w", pod.Name, list.Name, err)
		}
	}
	return nil
}

// runtimeConf is what a runtime tells the plugins of one pod: what the plan
// fixes, in the arguments that most plugins read and by the capabilities that
// the list may ask for, and what a kubelet says.
func runtimeConf(pod *topology.Pod) *libcni.RuntimeConf {
	addresses := []string{pod.Address.String()}
	bare := []string{pod.Address.Addr().String()}
	if pod.Address6.IsValid() {
		addresses = append(addresses, pod.Address6.String())
		bare = append(bare, pod.Address6.Addr().String())
	}
	return &libcni.RuntimeConf{
		ContainerID: pod.ContainerID,
		NetNS:       nsPath(pod.Name, "net"),
		IfName:      "eth0",
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", pod.Name}, {"K8S_POD_INFRA_CONTAINER_ID", pod.ContainerID},
			{"IP", strings.Join(bare, ",")}, {"MAC", pod.MAC.String()}, {"HostInterface", pod.HostInterface},
		},
		CapabilityArgs: map[string]any{"ips": addresses, "mac": pod.MAC.String(), "portMappings": pod.Ports},
	}
}

// asPlanned refuses a pod whose address is not the plan's: every command and
// check goes by that.
func asPlanned(pod *topology.Pod, result types.Result) error {
	r, err := types100.NewResultFromResult(result)
	if err != nil {
		return err
	}
	for _, want := range []netip.Prefix{pod.Address, pod.Address6} {
		has := slices.ContainsFunc(r.IPs, func(ip *types100.IPConfig) bool {
			a, _ := netip.AddrFromSlice(ip.Address.IP)
			return a.Unmap() == want.Addr()
		})
		if want.IsValid() && !has {
			return fmt.Errorf("the plugins gave it %v, and the plan says %s: they must give a pod the address that the runtime asks for, by IP in CNI_ARGS (host-local does) or by the capability ips",
				r.IPs, want.Addr())
		}
	}
	return nil
}
