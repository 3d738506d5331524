// Package nodeimage builds a node image for kind on a machine that reaches
// neither a container registry nor GitHub: the system from Debian's packages,
// Kubernetes, etcd and CoreDNS from their Go modules, and the rest from kind's
// own module. The result is what kindest/node is, less crictl, storage and
// kind's own CNI plugin.
//
// Everything is made in a folder of the user's cache. What is finished lies
// there under its name and is not made again, so a build that was interrupted
// goes on where it was.
package nodeimage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The versions that go together. Kubernetes 1.33 is the last that runs on
// machines with the first version of cgroups without being told to, and with
// Debian 12's containerd 1.6.
const (
	// Kubernetes is the version of the image's cluster.
	Kubernetes = "v1.33.13"
	// Kind is the version of kind whose files the image has.
	Kind = "v0.33.0"

	kubernetesMinor   = "33"
	kubernetesStaging = "v0.33.13"
	suite             = "bookworm"
	// What kubeadm of that version asks for (cmd/kubeadm/app/constants).
	etcdVersion, etcdTag       = "v3.5.24", "3.5.24-0"
	corednsVersion, corednsTag = "v1.12.0", "v1.12.0"
	pauseTag                   = "3.10"
)

// Name is the image's name for Docker and kind.
const Name = "localhost/overlab/node:" + Kubernetes

// Mirror is where Debian's packages are fetched from, unless the options say
// otherwise.
const Mirror = "http://deb.debian.org/debian"

// ErrRunning says that another build is at work in the same folder.
var ErrRunning = errors.New("another build of the node image is running")

// Options are what a caller may choose.
type Options struct {
	// Cache is the folder; empty is that of Dir.
	Cache string
	// Mirror is where Debian's packages come from; empty is Mirror.
	Mirror string
	// Progress, when set, is told of each step that begins and ends, and of
	// how far it is.
	Progress func(Progress)
}

// Progress is how far a step is.
type Progress struct {
	Step, Detail string
	// Took is set when the step has ended.
	Took time.Duration
}

// Dir is the folder of the user's cache that the image is built in.
func Dir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the user's cache folder: %w", err)
	}
	return filepath.Join(dir, "overlab", "node-image"), nil
}

// Cached returns the archive of an image that has been built; an error that is
// fs.ErrNotExist where none has.
func Cached() (string, error) {
	dir, err := Dir()
	if err != nil {
		return "", err
	}
	file := archive(dir)
	if _, err := os.Stat(file); err != nil {
		return "", fmt.Errorf("look for a node image in the cache: %w", err)
	}
	return file, nil
}

// archive is where the finished image lies. A change of the recipe that an
// image made before it must not pass for has another number.
func archive(dir string) string {
	const recipe = "1"
	return filepath.Join(dir, "node-"+Kubernetes+"-"+recipe+".tar")
}

// builder is a build at work.
type builder struct {
	Options
	// dir is the folder for what is on the way.
	dir string
}

// step makes one thing. It is done when its result is there, which appears
// whole or not at all.
type step struct {
	name, result string
	// about says how long it takes, on a machine with two cores.
	about string
	make  func(b *builder, ctx context.Context, s step) error
}

func steps() []step {
	return []step{
		{"kubernetes", "kubernetes/done", "about 15 minutes of CPU", (*builder).kubernetes},
		{"etcd", "bin/etcd", "about 40 seconds of CPU", (*builder).etcd},
		{"coredns", "bin/coredns", "about 90 seconds of CPU", (*builder).coredns},
		{"pause", "bin/pause", "", (*builder).pause},
		{"debian", "debian", "1 to 3 minutes", (*builder).debian},
		{"system", "system", "", (*builder).system},
		{"images", "images.tar", "", (*builder).images},
		{"preload", "preload.tar", "", (*builder).preload},
	}
}

// Build builds the image, or what is missing of it, and returns its archive,
// which `docker load` reads.
func Build(ctx context.Context, o Options) (file string, err error) {
	if o.Cache == "" {
		if o.Cache, err = Dir(); err != nil {
			return "", err
		}
	}
	if o.Mirror == "" {
		o.Mirror = Mirror
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	file = archive(o.Cache)
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if err := Check(); err != nil {
		return "", err
	}
	b := &builder{Options: o, dir: filepath.Join(o.Cache, "build")}
	if err := os.MkdirAll(filepath.Join(b.dir, "bin"), 0o755); err != nil {
		return "", fmt.Errorf("make the folder of the build: %w", err)
	}
	lock, err := claim(b.dir)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	for _, s := range append(steps(), step{"pack", "../" + filepath.Base(file), "", (*builder).pack}) {
		if err := b.do(ctx, s); err != nil {
			return "", err
		}
	}
	if err := os.RemoveAll(b.dir); err != nil {
		return "", fmt.Errorf("remove what the build left: %w", err)
	}
	return file, nil
}

// Check says what the machine lacks for a build, and the mend.
func Check() error {
	var errs []error
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("only root can build a node image, for it unpacks Debian's packages with their owners and devices: sudo overlab image node"))
	}
	for _, need := range []struct{ program, mend string }{
		{"go", "install Go (https://go.dev/dl)"},
		{"debootstrap", "apt-get install debootstrap"},
		{"tar", "apt-get install tar"},
	} {
		if _, err := exec.LookPath(need.program); err != nil {
			errs = append(errs, fmt.Errorf("building a node image needs %s: %s", need.program, need.mend))
		}
	}
	return errors.Join(errs...)
}

// claim keeps others out of the folder until the file is closed.
func claim(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the folder of the build: %w", err)
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, errors.Join(fmt.Errorf("%w, in %s", ErrRunning, dir), f.Close())
	case err != nil:
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return f, nil
}

// do does a step unless its result is there.
func (b *builder) do(ctx context.Context, s step) error {
	_, err := os.Stat(b.path(s.result))
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("build the node image: %s: %w", s.name, err)
	}
	b.Progress(Progress{Step: s.name, Detail: s.about})
	began := time.Now()
	if err := s.make(b, ctx, s); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("build the node image: %s: %w (what is finished stays in %s, and the next build goes on there)", s.name, err, b.dir)
	}
	b.Progress(Progress{Step: s.name, Took: time.Since(began)})
	return nil
}

func (b *builder) path(name string) string { return filepath.Join(b.dir, name) }

// fresh returns the place where a step makes its result, without what an
// interrupted one left there; place puts it under its name.
func (b *builder) fresh(s step) (partial string, err error) {
	partial = b.path(s.result + ".partial")
	return partial, os.RemoveAll(partial)
}

func (b *builder) place(s step) error {
	return os.Rename(b.path(s.result+".partial"), b.path(s.result))
}
