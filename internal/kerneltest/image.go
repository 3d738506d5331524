package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/cavaliergopher/cpio"

	"github.com/overlab/overlab/internal/kerneltest/guest/order"
)

// tools are the machine's own that tests and exercises run; those that the
// machine lacks, the guest lacks too. Busybox serves everything else.
func tools() []string {
	return []string{
		"arping", "awk", "bash", "bridge", "brctl", "busybox", "cat", "dash", "ethtool", "grep", "ifconfig", "ip", "ip6tables", "ip6tables-restore", "ip6tables-save", "iptables", "iptables-restore",
		"iptables-save", "ls", "netstat", "nft", "nsenter", "ping", "ps", "route", "sed", "sleep", "ss", "stat", "sysctl", "tc", "tcpdump",
		"timeout", "unshare", "wg", "xtables-nft-multi",
	}
}

// folders are what those read besides.
func folders() []string {
	return []string{
		"/etc/iproute2", "/etc/passwd", "/etc/group", "/etc/protocols", "/etc/services", "/etc/nsswitch.conf", "/etc/ethertypes",
		"/usr/lib/x86_64-linux-gnu/xtables",
	}
}

// image is a file system that is being written: an archive of cpio's format
// "newc", which the kernel unpacks into memory (its initramfs documentation).
type image struct {
	*cpio.Writer
	have map[string]bool
}

// pack writes the guest's file system.
func pack(file string, k *kernel, dir string, jobs []order.Job) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("make the image: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buffered := bufio.NewWriterSize(f, 1<<20)
	i := &image{Writer: cpio.NewWriter(buffered), have: map[string]bool{}}
	for _, d := range []string{"/dev", "/proc", "/sys", "/tmp", "/root", "/run", "/var/lib", "/etc", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64"} {
		i.folder(d)
	}
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} { // as Debian has them
		i.link("/"+d, "usr/"+d)
	}
	err = errors.Join(
		i.file("/init", filepath.Join(dir, "init")),
		i.tree(guestBin, filepath.Join(dir, "bin")), i.tree(guestTests, filepath.Join(dir, "tests")),
		i.data(order.JobsFile, jobs), i.sources(jobs), i.modules(k), i.tools())
	return errors.Join(err, i.Close(), buffered.Flush())
}

// entry writes one entry and the folders that it lies in.
func (i *image) entry(name string, mode cpio.FileMode, content []byte) error {
	if i.have[name] {
		return nil
	}
	if parent := path.Dir(name); parent != "/" {
		i.folder(parent)
	}
	i.have[name] = true
	if err := i.WriteHeader(&cpio.Header{Name: strings.TrimPrefix(name, "/"), Mode: mode, Size: int64(len(content))}); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	if _, err := i.Write(content); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	return nil
}

// folder and link cannot fail in a way that the next entry or Close would not.
func (i *image) folder(name string) { _ = i.entry(name, cpio.TypeDir|0o755, nil) }

func (i *image) link(name, target string) {
	_ = i.entry(name, cpio.TypeSymlink|0o777, []byte(target))
}

func (i *image) file(name, from string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	st, err := os.Stat(from)
	if err != nil {
		return err
	}
	return i.entry(place(name), cpio.TypeReg|cpio.FileMode(st.Mode().Perm()), content)
}

// place is where a file really lies: under /usr, on a system with merged
// folders.
func place(name string) string {
	top, _, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/")
	switch top {
	case "bin", "sbin", "lib", "lib64":
		return "/usr" + name
	}
	return name
}

func (i *image) data(name string, v any) error {
	content, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return i.entry(place(name), cpio.TypeReg|0o644, content)
}

// tree packs a folder with everything in it, or a file; what does not exist is
// left out.
func (i *image) tree(name, from string) error {
	err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		target := name + strings.TrimPrefix(p, from)
		switch {
		case err != nil:
			return err
		case d.IsDir():
			i.folder(target)
			return nil
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err == nil {
				i.link(target, to)
			}
			return err
		}
		return i.file(target, p)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// sources packs the folders of the tested packages: tests read files of theirs.
func (i *image) sources(jobs []order.Job) error {
	var errs []error
	for _, j := range jobs {
		if j.Name != "" {
			errs = append(errs, i.tree(j.Dir, filepath.FromSlash(strings.TrimPrefix(j.Name, module))))
		}
	}
	return errors.Join(errs...)
}

// modules packs the kernel's modules and the index of them.
func (i *image) modules(k *kernel) error {
	index := map[string]order.Module{}
	for _, from := range k.modules {
		name, m, err := readModule(from)
		if err != nil {
			return err
		}
		index[name] = m
		if err := i.file(path.Join(order.Modules, name+".ko"), from); err != nil {
			return err
		}
	}
	return i.data(order.IndexFile, index)
}

// tools packs the machine's tools with the libraries that they load.
func (i *image) tools() error {
	var errs []error
	for _, t := range tools() {
		found, err := find(t)
		if err != nil {
			continue
		}
		real, err := filepath.EvalSymlinks(found)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, i.program(real))
		if real := place(real); place(found) != real {
			i.link(place(found), real)
		}
	}
	i.link("/usr/bin/sh", "dash")
	for _, f := range folders() {
		errs = append(errs, i.tree(f, f))
	}
	return errors.Join(errs...)
}

func find(tool string) (string, error) {
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if p, err := exec.LookPath(filepath.Join(dir, tool)); err == nil {
			return p, nil
		}
	}
	return "", exec.ErrNotFound
}

// library is a line of ldd(1): "libc.so.6 => /lib/…/libc.so.6 (0x…)", or the
// loader's path alone.
var library = regexp.MustCompile(`(?m)(/\S+) \(0x`)

// program packs a program and its libraries.
func (i *image) program(file string) error {
	if err := i.file(file, file); err != nil {
		return err
	}
	out, err := exec.Command("ldd", file).Output()
	if err != nil {
		return nil // it is static, or a script
	}
	for _, m := range library.FindAllStringSubmatch(string(out), -1) {
		if err := i.file(m[1], m[1]); err != nil {
			return err
		}
	}
	return nil
}
