// Package container runs pods as containers of a containerd that serves one
// lab, and enters them.
package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/core/introspection"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/platforms"
)

// namespace is containerd's name for what belongs together. The lab's
// containerd serves nobody else, so one serves all.
const namespace = "overlab"

// runcShim is the name by which containerd knows the runtime.
const runcShim = "io.containerd.runc.v2"

// connectPause is the pause between two attempts to reach a containerd that
// starts.
const connectPause = 5 * time.Millisecond

// Options tell what a Runtime works with.
type Options struct {
	// Address is the path of containerd's socket.
	Address string
	// Runc is the path of the OCI runtime.
	Runc string
	// Temp is a folder for the passing mounts in which an image's users are
	// looked up.
	Temp string
}

// Runtime is a connection to the lab's containerd.
type Runtime struct {
	client      *containerd.Client
	runc        string
	snapshotter string
}

// Connect connects to a containerd that starts, and waits until it serves or
// ctx ends.
func Connect(ctx context.Context, o Options) (*Runtime, error) {
	mount.SetTempMountLocation(o.Temp)
	client, err := await(ctx, o.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to the lab's containerd: %w", err)
	}
	r := &Runtime{client: client, runc: o.Runc}
	if r.snapshotter, err = chooseSnapshotter(r.context(ctx), client.IntrospectionService()); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return r, nil
}

// await tries to connect until somebody answers.
func await(ctx context.Context, address string) (*containerd.Client, error) {
	tick := time.NewTicker(connectPause)
	defer tick.Stop()
	for {
		client, err := containerd.New(address, containerd.WithDefaultNamespace(namespace), containerd.WithTimeout(time.Second))
		if err == nil {
			if _, err = client.Version(ctx); err == nil {
				return client, nil
			}
			_ = client.Close() // it never answered
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), err)
		}
	}
}

// chooseSnapshotter returns the one by which containers share an image's files,
// or where the kernel lays no overlay over the lab's folder, the one that copies
// them.
func chooseSnapshotter(ctx context.Context, service introspection.Service) (string, error) {
	found, err := service.Plugins(ctx, "type==io.containerd.snapshotter.v1")
	if err != nil {
		return "", fmt.Errorf("ask containerd for its snapshotters: %w", err)
	}
	var why []string
	for _, name := range []string{"overlayfs", "native"} {
		for _, p := range found.Plugins {
			if p.ID == name && p.InitErr == nil {
				return name, nil
			}
			if p.ID == name {
				why = append(why, name+": "+p.InitErr.GetMessage())
			}
		}
	}
	return "", fmt.Errorf("containerd can lay out no image's files: %s", strings.Join(why, "; "))
}

// context adds the namespace, which every call needs.
func (r *Runtime) context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, namespace)
}

// Describe names the parts in a few words.
func (r *Runtime) Describe(ctx context.Context) string {
	version := "of unknown version"
	if v, err := r.client.Version(ctx); err == nil {
		version = v.Version
	}
	return "containerd " + version + ", snapshots by " + r.snapshotter
}

// Image is an image that containers can be made of.
type Image struct {
	containerd.Image
}

// Import reads the one image of an OCI or Docker archive.
func (r *Runtime) Import(ctx context.Context, from io.Reader) (*Image, error) {
	ctx = r.context(ctx)
	all, err := r.client.Import(ctx, from,
		containerd.WithImportPlatform(platforms.Default()),
		containerd.WithDigestRef(archive.DigestTranslator("overlab.local/import")))
	if err != nil {
		return nil, fmt.Errorf("import an image: %w", err)
	}
	if len(all) == 0 {
		return nil, errors.New("import an image: the archive has none for " + platforms.DefaultString())
	}
	for _, i := range all {
		if i.Target.Digest != all[0].Target.Digest {
			return nil, fmt.Errorf("import an image: the archive has several, %s and %s among them: save the one that is meant", all[0].Name, i.Name)
		}
	}
	image := containerd.NewImage(r.client, all[0])
	if err := image.Unpack(ctx, r.snapshotter); err != nil {
		return nil, fmt.Errorf("unpack image %s: %w", image.Name(), err)
	}
	return &Image{image}, nil
}

// runtime asks for runc by the lab's own path to it.
func (r *Runtime) runtime() containerd.NewContainerOpts {
	return containerd.WithRuntime(runcShim, &options.Options{BinaryName: r.runc})
}
