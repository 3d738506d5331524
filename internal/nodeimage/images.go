package nodeimage

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/overlab/overlab/internal/ociimage"
)

const searchPath = "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// images writes the images that kubeadm asks for, under their names.
func (b *builder) images(_ context.Context, s step) error {
	partial, err := b.fresh(s)
	if err != nil {
		return err
	}
	images, err := b.controlPlane()
	if err != nil {
		return err
	}
	f, err := os.Create(partial)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := ociimage.Write(f, images...); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return b.place(s)
}

// controlPlane are the images, each one static program and what it reads.
func (b *builder) controlPlane() ([]ociimage.Image, error) {
	image := func(program, tag string, config v1.ImageConfig, beside ...ociimage.File) ociimage.Image {
		at := "/usr/local/bin/"
		if len(config.Entrypoint) > 0 {
			at = "/"
		}
		name, _, _ := strings.Cut(filepath.Base(program), ":")
		files := append(beside, ociimage.File{Path: at + name, Mode: 0o755, Source: b.path("bin/" + name)})
		config.Env = []string{searchPath}
		return ociimage.Image{Name: "registry.k8s.io/" + program + ":" + tag, Layers: []ociimage.Layer{ociimage.Files(files...)}, Config: config}
	}
	proxy, err := rootfs(b.path("system")).packetFilter()
	if err != nil {
		return nil, err
	}
	const certificates = "/etc/ssl/certs/ca-certificates.crt"
	return []ociimage.Image{
		image("kube-apiserver", Kubernetes, v1.ImageConfig{}),
		image("kube-controller-manager", Kubernetes, v1.ImageConfig{}),
		image("kube-scheduler", Kubernetes, v1.ImageConfig{}),
		image("kube-proxy", Kubernetes, v1.ImageConfig{}, proxy...),
		image("etcd", etcdTag, v1.ImageConfig{}),
		image("coredns/coredns", corednsTag, v1.ImageConfig{Entrypoint: []string{"/coredns"}},
			ociimage.File{Path: certificates, Mode: 0o644, Source: b.path("system" + certificates)}),
		image("pause", pauseTag, v1.ImageConfig{Entrypoint: []string{"/pause"}, User: "65535:65535"}),
	}, nil
}

// packetFilter are the programs by which kube-proxy programs the kernel, with
// the libraries that they and iptables' extensions need.
func (r rootfs) packetFilter() ([]ociimage.File, error) {
	l := linked{root: r, have: map[string]bool{}}
	for _, program := range []string{"xtables-nft-multi", "xtables-legacy-multi", "nft", "conntrack", "ipset"} {
		if err := l.add("/usr/sbin/" + program); err != nil {
			return nil, err
		}
	}
	extensions, err := filepath.Glob(r.path("usr/lib/*-linux-gnu/xtables/*.so"))
	if err != nil {
		return nil, err
	}
	for _, e := range extensions {
		if err := l.add(strings.TrimPrefix(e, string(r))); err != nil {
			return nil, err
		}
	}
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, verb := range []string{"", "-save", "-restore"} {
			l.link("/usr/sbin/"+family+verb, "xtables-nft-multi")
			l.link("/usr/sbin/"+family+"-nft"+verb, "xtables-nft-multi")
			l.link("/usr/sbin/"+family+"-legacy"+verb, "xtables-legacy-multi")
		}
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} { // as Debian has them
		l.link("/"+dir, "usr/"+dir)
	}
	for _, file := range []string{"/etc/protocols", "/etc/services"} {
		if _, err := os.Stat(r.path(file)); err == nil { // only a larger system has them
			l.files = append(l.files, ociimage.File{Path: file, Mode: 0o644, Source: r.path(file)})
		}
	}
	l.files = append(l.files, ociimage.File{Path: "/run/xtables.lock", Mode: 0o600})
	return l.files, nil
}

// linked collects programs and the libraries that they are linked to.
type linked struct {
	root  rootfs
	have  map[string]bool
	files []ociimage.File
}

func (l *linked) link(path, to string) {
	l.files = append(l.files, ociimage.File{Path: path, Link: to})
}

// add adds a program or library, and what its ELF header says that it needs.
func (l *linked) add(file string) error {
	if l.have[file] {
		return nil
	}
	l.have[file] = true
	source, err := filepath.EvalSymlinks(l.root.path(file))
	if err != nil {
		return fmt.Errorf("find %s in the system: %w", file, err)
	}
	l.files = append(l.files, ociimage.File{Path: file, Mode: 0o755, Source: source})
	program, err := elf.Open(source)
	if err != nil {
		return fmt.Errorf("read what %s is linked to: %w", file, err)
	}
	defer program.Close()
	needs, err := program.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("read what %s is linked to: %w", file, err)
	}
	if i := program.Section(".interp"); i != nil {
		b, err := i.Data()
		if err != nil {
			return fmt.Errorf("read the interpreter of %s: %w", file, err)
		}
		interpreter := string(bytes.TrimRight(b, "\x00"))
		if err := l.add("/usr" + interpreter); err != nil {
			return err
		}
	}
	for _, name := range needs {
		library, err := l.root.library(name)
		if err != nil {
			return fmt.Errorf("%s needs %s: %w", file, name, err)
		}
		if err := l.add(library); err != nil {
			return err
		}
	}
	return nil
}

// library finds a shared library by its name.
func (r rootfs) library(name string) (string, error) {
	found, err := filepath.Glob(r.path("usr/lib/*-linux-gnu/" + name))
	if err == nil && len(found) == 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		return "", err
	}
	return strings.TrimPrefix(found[0], string(r)), nil
}
