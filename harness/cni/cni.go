// Package cni runs CNI plugins on a node, as a container runtime does: through
// libcni, as executables in the node's namespaces. The containers that they
// wire are network namespaces without a process.
package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/topology"
)

// A Runtime runs one configuration list on one node.
type Runtime struct {
	list  *libcni.NetworkConfigList
	lib   *libcni.CNIConfig
	cache string
}

// Open reads a configuration list, whose plugins are in the folders of path.
// Close removes what libcni keeps.
func Open(node topology.Namespace, list []byte, path []string) (*Runtime, error) {
	parsed, err := libcni.NetworkConfFromBytes(list)
	if err != nil {
		return nil, fmt.Errorf("read the CNI configuration: %w", err)
	}
	cache, err := os.MkdirTemp("", "overlab-cni-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for CNI results: %w", err)
	}
	return &Runtime{
		list: parsed, cache: cache,
		lib: libcni.NewCNIConfigWithCacheDir(path, cache, &executor{node: node}),
	}, nil
}

// Close removes what libcni has kept of the containers.
func (r *Runtime) Close() error { return os.RemoveAll(r.cache) }

// Version is the list's version of the specification, as "1.1.0".
func (r *Runtime) Version() string { return r.list.CNIVersion }

// Name is the network's.
func (r *Runtime) Name() string { return r.list.Name }

// Add wires a container. An error is of the plugin, most often a *types.Error.
func (r *Runtime) Add(ctx context.Context, c *Container) (*types100.Result, error) {
	result, err := r.lib.AddNetworkList(ctx, r.list, c.conf())
	if err != nil {
		return nil, err
	}
	return types100.NewResultFromResult(result)
}

// Del unwires a container.
func (r *Runtime) Del(ctx context.Context, c *Container) error {
	return r.lib.DelNetworkList(ctx, r.list, c.conf())
}

// Check asks whether a container is as ADD left it.
func (r *Runtime) Check(ctx context.Context, c *Container) error {
	return r.lib.CheckNetworkList(ctx, r.list, c.conf())
}

// Status asks whether an ADD could succeed.
func (r *Runtime) Status(ctx context.Context) error { return r.lib.GetStatusNetworkList(ctx, r.list) }

// GC frees what no container has but those that are named.
func (r *Runtime) GC(ctx context.Context, valid ...*Container) error {
	var keep []types.GCAttachment
	for _, c := range valid {
		keep = append(keep, types.GCAttachment{ContainerID: c.ID, IfName: c.IfName})
	}
	return r.lib.GCNetworkList(ctx, r.list, &libcni.GCArgs{ValidAttachments: keep})
}

// A Container is a network namespace that plugins wire.
type Container struct {
	ID, IfName string
	// Path is the namespace's, for the plugins.
	Path string
	set  *netns.Set
}

// NewContainer makes a namespace with nothing in it. It goes when the container
// is closed.
func NewContainer() (*Container, error) {
	set, err := netns.Create(unix.CLONE_NEWNET, func() error { return nil })
	if err != nil {
		return nil, fmt.Errorf("make a container's namespace: %w", err)
	}
	return &Container{
		ID: "overlab-check-" + uuid.NewString(), IfName: "eth0", set: set,
		Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), set.Net),
	}, nil
}

// Namespace is the container's, for a probe session.
func (c *Container) Namespace() topology.Namespace { return &namespace{c.set, c.ID} }

// Close lets go of the namespace: the kernel removes it, and with it the
// container's end of its veth. DEL finds no namespace any more.
func (c *Container) Close() error {
	c.Path = ""
	return c.set.Close()
}

func (c *Container) conf() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: c.ID, NetNS: c.Path, IfName: c.IfName,
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", c.ID}},
	}
}

// namespace is a container's, in which no process runs.
type namespace struct {
	*netns.Set
	name string
}

func (n *namespace) Name() string { return n.name }

func (n *namespace) Run(context.Context, topology.Process) (int, error) {
	return 0, fmt.Errorf("%s is a namespace without a file system of its own", n.name)
}

// executor runs plugins on a node for libcni.
type executor struct {
	version.PluginDecoder
	node topology.Namespace
}

var _ invoke.Exec = (*executor)(nil)

// FindInPath implements invoke.Exec.
func (*executor) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// ExecPlugin implements invoke.Exec. What a plugin that failed has printed is
// the error, which libcni reads the code of.
func (e *executor) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var out, said bytes.Buffer
	code, err := e.node.Run(ctx, topology.Process{
		Argv: []string{path}, Env: environ, Dir: "/",
		Stdin: bytes.NewReader(stdin), Stdout: &out, Stderr: &said,
	})
	if err != nil {
		return nil, fmt.Errorf("run %s on %s: %w", path, e.node.Name(), err)
	}
	if code == 0 {
		return out.Bytes(), nil
	}
	failed := new(types.Error)
	if err := json.Unmarshal(out.Bytes(), failed); err != nil || failed.Msg == "" {
		return nil, fmt.Errorf("%s on %s: exit %d, printed %q and %q", path, e.node.Name(), code, out.String(), said.String())
	}
	return nil, failed
}

// Code is the code of a plugin's error (CNI specification, section 5), 0 where
// it has none.
func Code(err error) uint {
	var failed *types.Error
	if errors.As(err, &failed) {
		return failed.Code
	}
	return 0
}
