package nodeimage

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/overlab/overlab/internal/ociimage"
)

// importImages fills containerd's store, with the system's own containerd. The
// store's files go to a folder of the build, mounted where they belong.
const importImages = `set -eu
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' >/tmp/containerd.toml
containerd --config /tmp/containerd.toml >/tmp/log 2>&1 &
tries=0
until ctr version >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || { cat /tmp/log; exit 1; }
    sleep 0.1
done
ctr --namespace=k8s.io images import --no-unpack --digests=false /mnt/images.tar
ctr --namespace=k8s.io images list -q
kill %1 2>/dev/null || kill $!
wait || true
`

// preload makes the store that nodes have their cluster's images in.
func (b *builder) preload(ctx context.Context, s step) error {
	store := b.path("store")
	if err := os.RemoveAll(store); err != nil {
		return err
	}
	if err := os.MkdirAll(store, 0o711); err != nil {
		return err
	}
	partial, err := b.fresh(s)
	if err != nil {
		return err
	}
	const script = `set -eu
mkdir -p "$1/var/lib/containerd"
mount --bind "$2" "$1/var/lib/containerd"
mount -t tmpfs tmpfs "$1/mnt"
touch "$1/mnt/images.tar"
mount --bind "$3" "$1/mnt/images.tar"
chroot "$1" sh -c "$4"
`
	if err := apart(ctx, "", "sh", "-c", script, "sh", b.path("system"), store, b.path("images.tar"), importImages); err != nil {
		return err
	}
	if err := apart(ctx, "", "tar", "-C", store, "--sort=name", "--transform=s,^\\.,var/lib/containerd,", "-cf", partial, "."); err != nil {
		return err
	}
	if err := os.RemoveAll(store); err != nil {
		return err
	}
	return b.place(s)
}

// storageClass stands in for the one of kind's own image, whose provisioner has
// an image of its own.
const storageClass = `apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: standard
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
`

// pack puts the layers together: the system, Kubernetes' programs, and
// containerd's store.
func (b *builder) pack(ctx context.Context, s step) error {
	partial, err := b.fresh(s)
	if err != nil {
		return err
	}
	files := []ociimage.File{
		{Path: "/kind/version", Mode: 0o644, Content: []byte(Kubernetes)},
		{Path: "/kind/manifests/default-storage.yaml", Mode: 0o644, Content: []byte(storageClass)},
	}
	for _, program := range []string{"kubeadm", "kubectl", "kubelet"} {
		files = append(files, ociimage.File{Path: "/usr/bin/" + program, Mode: 0o755, Source: b.path("bin/" + program)})
	}
	image := ociimage.Image{
		Name: Name,
		Layers: []ociimage.Layer{
			folder(ctx, b.path("system")), ociimage.Files(files...), ociimage.Archive(b.path("preload.tar")),
		},
		Config: v1.ImageConfig{
			Env:        []string{"container=docker", searchPath}, // systemd asks for the first
			Entrypoint: []string{"/usr/local/bin/entrypoint", "/sbin/init"},
			StopSignal: "SIGRTMIN+3", // systemd's for an orderly end
		},
	}
	f, err := os.Create(partial)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := ociimage.Write(f, image); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return b.place(s)
}

// folder is a layer of a whole folder, with owners and links.
func folder(ctx context.Context, dir string) ociimage.Layer {
	return func(w io.Writer) error {
		cmd := exec.CommandContext(ctx, "tar", "-C", dir, "--sort=name", "--numeric-owner", "-cf", "-", ".")
		cmd.Stdout, cmd.Stderr = w, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("pack %s: %w", dir, err)
		}
		return nil
	}
}
