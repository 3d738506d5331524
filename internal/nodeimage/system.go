package nodeimage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// packages are Debian's, besides the smallest system: what kind's base image
// has (images/base/Dockerfile) and a look at the network needs.
var packages = []string{
	"systemd", "systemd-sysv",
	"conntrack", "iptables", "nftables", "ipset", "iproute2", "ethtool", "util-linux", "mount", "kmod",
	"libseccomp2", "pigz", "bash", "ca-certificates", "curl", "jq", "procps", "hostname",
	"containerd", "runc", "containernetworking-plugins",
	"iputils-ping", "tcpdump",
}

// debian unpacks the packages.
func (b *builder) debian(ctx context.Context, s step) error {
	debs := b.path("debs")
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return err
	}
	partial, err := b.fresh(s)
	if err != nil {
		return err
	}
	if err := apart(ctx, "", "debootstrap", "--variant=minbase", "--cache-dir="+debs,
		"--include="+strings.Join(packages, ","), suite, partial, b.Mirror); err != nil {
		return err
	}
	return b.place(s)
}

// apart runs a program as process 1 in mount and process namespaces of its own:
// what it mounts and starts ends with it, however it ends. root, when set, is
// the folder that the program has for /.
func apart(ctx context.Context, root, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot:       root,
		Cloneflags:   unix.CLONE_NEWPID,
		Unshareflags: unix.CLONE_NEWNS, // and private, so that no mount gets out
		Pdeathsig:    unix.SIGKILL,
	}
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C"}
	if root != "" {
		cmd.Dir = "/"
	}
	for _, proxy := range []string{"http_proxy", "https_proxy", "no_proxy"} {
		if value, ok := os.LookupEnv(proxy); ok {
			cmd.Env = append(cmd.Env, proxy+"="+value)
		}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w: %s", program, err, tail(out))
	}
	return nil
}

// system makes the Debian system into a node of kind's: its files, and only
// those services that a node in a container has. It follows kind's
// images/base/Dockerfile.
func (b *builder) system(ctx context.Context, s step) error {
	kind, err := b.kindFiles(ctx)
	if err != nil {
		return err
	}
	root, err := b.fresh(s)
	if err != nil {
		return err
	}
	// The step before is kept until this one has ended.
	if err := apart(ctx, "", "cp", "-a", b.path("debian"), root); err != nil {
		return err
	}
	r := rootfs(root)
	for _, change := range []func() error{
		func() error { return r.remove("etc/containerd") },
		func() error { return r.copyKind(kind) },
		r.services,
		func() error { return r.enable(ctx) },
		func() error { return r.containerd(ctx) },
		r.shrink,
	} {
		if err := change(); err != nil {
			return err
		}
	}
	return b.place(s)
}

// kindFiles is the folder of kind's module that its base image is made of.
func (b *builder) kindFiles(ctx context.Context) (string, error) {
	m := b.module("kind")
	if err := m.begin(ctx, ""); err != nil {
		return "", err
	}
	d, err := m.download(ctx, "sigs.k8s.io/kind", Kind)
	if err != nil {
		return "", err
	}
	return filepath.Join(d.Dir, "images", "base", "files"), nil
}

// rootfs is the folder of a system.
type rootfs string

func (r rootfs) path(name string) string { return filepath.Join(string(r), name) }

// remove removes files; patterns are those of filepath.Match.
func (r rootfs) remove(patterns ...string) error {
	var errs []error
	for _, p := range patterns {
		found, err := filepath.Glob(r.path(p))
		errs = append(errs, err)
		for _, f := range found {
			errs = append(errs, os.RemoveAll(f))
		}
	}
	return errors.Join(errs...)
}

func (r rootfs) write(name, content string) error {
	return errors.Join(os.MkdirAll(filepath.Dir(r.path(name)), 0o755), os.WriteFile(r.path(name), []byte(content), 0o644))
}

// change rewrites a file.
func (r rootfs) change(name string, to func(string) string) error {
	b, err := os.ReadFile(r.path(name))
	if err != nil {
		return err
	}
	return os.WriteFile(r.path(name), []byte(to(string(b))), 0o644)
}

// copyKind copies kind's files, which in the module cache are read-only and no
// programs.
func (r rootfs) copyKind(from string) error {
	return filepath.WalkDir(from, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(r.path(name), 0o755)
		}
		mode := fs.FileMode(0o644)
		if filepath.Base(filepath.Dir(name)) == "bin" {
			mode = 0o755
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		return os.WriteFile(r.path(name), b, mode)
	})
}

// services takes away what a machine starts and a container must not.
func (r rootfs) services() error {
	const system = "lib/systemd/system/"
	err := r.remove(
		system+"sysinit.target.wants/systemd-tmpfiles-setup.service",
		system+"multi-user.target.wants/*", system+"local-fs.target.wants/*", system+"basic.target.wants/*",
		system+"sockets.target.wants/*udev*", system+"sockets.target.wants/*initctl*",
		"etc/systemd/system/*.wants/*",
	)
	if err != nil {
		return err
	}
	return r.change("etc/systemd/journald.conf", func(s string) string { return s + "ReadKMsg=no\n" })
}

// enable has systemd start what kind's node needs, by its own program.
func (r rootfs) enable(ctx context.Context) error {
	return errors.Join(
		apart(ctx, string(r), "systemctl", "enable", "kubelet.service", "containerd.service", "undo-mount-hacks.service"),
		// It would register things with the one kernel that all share.
		apart(ctx, string(r), "systemctl", "mask", "systemd-binfmt.service"),
		apart(ctx, string(r), "systemctl", "set-default", "multi-user.target"),
	)
}

// containerd puts Debian's where kind's files look for it.
func (r rootfs) containerd(ctx context.Context) error {
	for _, program := range []string{"containerd", "ctr", "containerd-shim-runc-v2"} {
		if err := os.Symlink("/usr/bin/"+program, r.path("usr/local/bin/"+program)); err != nil {
			return err
		}
	}
	for _, dir := range []string{"etc/kubernetes/manifests", "opt/cni", "kind/manifests"} {
		if err := os.MkdirAll(r.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Rename(r.path("usr/lib/cni"), r.path("opt/cni/bin")); err != nil {
		return err
	}
	spec, err := baseSpec(ctx, string(r))
	if err != nil {
		return err
	}
	if err := r.write("etc/containerd/cri-base.json", spec); err != nil {
		return err
	}
	// Without CAP_SYS_RESOURCE a process cannot lower its OOM score, and every
	// sandbox would die of trying. Where it can, this changes nothing: what
	// kubelet asks for is never below what containerd itself has.
	return r.change("etc/containerd/config.toml", func(s string) string {
		return strings.Replace(s, "restrict_oom_score_adj = false", "restrict_oom_score_adj = true", 1)
	})
}

// baseSpec is the OCI spec that containers begin from, with kind's hook, which
// hides the machine's product files.
func baseSpec(ctx context.Context, root string) (string, error) {
	cmd := exec.CommandContext(ctx, "/usr/bin/ctr", "oci", "spec")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Pdeathsig: unix.SIGKILL}
	cmd.Dir = "/"
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run ctr oci spec: %w: %s", err, tail(said.Bytes()))
	}
	spec := map[string]any{}
	if err := json.Unmarshal(out, &spec); err != nil {
		return "", fmt.Errorf("read containerd's OCI spec: %w", err)
	}
	if process, ok := spec["process"].(map[string]any); ok {
		delete(process, "rlimits")
	}
	spec["hooks"] = map[string]any{"createContainer": []any{map[string]any{"path": "/kind/bin/mount-product-files.sh"}}}
	out, err = json.Marshal(spec)
	return string(out), err
}

// shrink removes what no node reads, and what would be the same on each.
func (r rootfs) shrink() error {
	return errors.Join(
		r.remove("var/cache/apt/*", "var/lib/apt/lists/*", "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info",
			"var/log/*.log", "var/log/apt", "etc/hostname", "etc/resolv.conf"),
		r.write("etc/machine-id", ""),
	)
}
