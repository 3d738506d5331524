package main

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/overlab/overlab/internal/kerneltest/guest/order"
)

// kernel is an unpacked package of a kernel.
type kernel struct {
	// version is what uname -r prints there, image the file that boots.
	version, image string
	// modules are the files of its modules.
	modules []string
}

// fetchKernel returns the newest kernel that a package stands for, from the
// cache if it is there. Apt checks the signatures; an interrupted download is
// begun anew, one that is whole is kept.
func fetchKernel(ctx context.Context, cache, pkg string, say func(string, ...any)) (*kernel, error) {
	name, err := newest(ctx, pkg)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, name)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		say("fetching %s ...", name)
		if err := download(ctx, dir, name); err != nil {
			return nil, err
		}
		say("unpacked into %s", dir)
	}
	return openKernel(dir)
}

var realPackage = regexp.MustCompile(`(?m)^\s*Depends: (linux-image-[0-9]\S+)`)

// newest finds the package of the kernel that a package without files, such
// as linux-image-cloud-amd64, depends on.
func newest(ctx context.Context, pkg string) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", pkg).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("apt-cache depends %s: %w: %s (Debian has it; `apt-get update` reads the list)", pkg, err, bytes.TrimSpace(out))
	}
	if m := realPackage.FindSubmatch(out); m != nil {
		return string(m[1]), nil
	}
	return pkg, nil
}

// download makes dir, in one step at the end.
func download(ctx context.Context, dir, name string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make the kernels' folder: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		return fmt.Errorf("make a folder to unpack into: %w", err)
	}
	defer os.RemoveAll(tmp) // its content has moved
	if err := in(ctx, tmp, "apt-get", "download", name); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download %s gave %d packages, not one (%v)", name, len(debs), err)
	}
	root := filepath.Join(tmp, "root")
	if err := in(ctx, tmp, "dpkg", "-x", debs[0], root); err != nil {
		return err
	}
	packed, err := files(root, ".ko.xz")
	if err != nil {
		return err
	}
	if len(packed) > 0 { // Debian 13 compresses them
		if err := in(ctx, root, "xz", append([]string{"--decompress"}, packed...)...); err != nil {
			return err
		}
	}
	if err := os.Rename(root, dir); err != nil {
		return fmt.Errorf("keep the kernel: %w", err)
	}
	return nil
}

// in runs a command in a folder.
func in(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, args[0], err, bytes.TrimSpace(out))
	}
	return nil
}

// files lists the files below dir whose names have a suffix.
func files(dir, suffix string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(path, suffix) {
			out = append(out, path)
		}
		return err
	})
	return out, err
}

func openKernel(dir string) (*kernel, error) {
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return nil, fmt.Errorf("%s holds %d kernels, not one: remove the folder", dir, len(images))
	}
	k := &kernel{image: images[0], version: strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")}
	all, err := files(dir, ".ko")
	if err != nil {
		return nil, fmt.Errorf("list the kernel's modules: %w", err)
	}
	for _, m := range all {
		if strings.Contains(m, "/net/") || strings.Contains(m, "/crypto/") || strings.Contains(m, "/lib/") || strings.HasSuffix(m, "/fs/overlayfs/overlay.ko") {
			k.modules = append(k.modules, m)
		}
	}
	return k, nil
}

// readModule reads what a module's .modinfo section says of it: strings of the
// form key=value, each with a zero byte behind it (linux/moduleparam.h).
func readModule(path string) (name string, m order.Module, err error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", m, fmt.Errorf("read the module %s: %w", path, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return "", m, fmt.Errorf("read the module %s: it has no .modinfo", path)
	}
	info, err := section.Data()
	if err != nil {
		return "", m, fmt.Errorf("read the module %s: %w", path, err)
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "name":
			name = value
		case "alias":
			m.Aliases = append(m.Aliases, value)
		case "depends":
			m.Needs = append(m.Needs, strings.FieldsFunc(value, func(r rune) bool { return r == ',' })...)
		case "softdep":
			if pre, found := strings.CutPrefix(value, "pre: "); found {
				m.Needs = append(m.Needs, strings.Fields(pre)...)
			}
		}
	}
	return name, m, nil
}
