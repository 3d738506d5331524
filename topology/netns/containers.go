package netns

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"

	"github.com/moby/sys/userns"

	"github.com/overlab/overlab/internal/podimage"
	"github.com/overlab/overlab/topology"
	"github.com/overlab/overlab/topology/netns/container"
)

// ImageStore is a containerd of this machine that a lab may take images from.
type ImageStore struct {
	// Address is the path of its socket, Namespace containerd's word for a set
	// of images.
	Address, Namespace string
}

// ContainerOptions tell the supervisor what makes containers on this machine.
type ContainerOptions struct {
	// Containerd and Runc are paths, PodProgram is what the image is made of that
	// pods have for which nobody named one.
	Containerd, Runc string
	PodProgram       podimage.Program
	Store            ImageStore
}

// containerPrograms are what a lab of containers runs, and Debian's packages.
var containerPrograms = []struct{ name, pkg string }{
	{"containerd", "containerd"},
	{"containerd-shim-runc-v2", "containerd"},
	{"runc", "runc"},
}

// hostPath is where the host's programs are, those of root among them.
func hostPath() string { return os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin" }

// images are those of the plan's pods, each once.
func images(plan *topology.Plan) []string {
	var all []string
	for i := range plan.Pods {
		all = append(all, plan.Pods[i].Image)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// containerOptions finds what the plan's containers need; its error names all
// that this machine lacks.
func (p *Provider) containerOptions(ctx context.Context, plan *topology.Plan) (ContainerOptions, error) {
	if plan.Runtime != topology.RuntimeContainerd {
		return ContainerOptions{}, nil
	}
	if os.Geteuid() != 0 || userns.RunningInUserNS() {
		return ContainerOptions{}, errors.New("spec.runtime: containerd needs root of this machine, for its snapshots have owners that an ordinary user's namespaces do not know: run overlab with sudo, or leave runtime out")
	}
	o := ContainerOptions{Store: p.ImageStore}
	var errs []error
	found := map[string]string{}
	for _, program := range containerPrograms {
		path, err := findIn(hostPath(), program.name)
		if err != nil {
			errs = append(errs, fmt.Errorf("spec.runtime: %s is not in PATH: sudo apt-get install %s", program.name, program.pkg))
		}
		found[program.name] = path
	}
	o.Containerd, o.Runc = found["containerd"], found["runc"]
	for _, image := range images(plan) {
		if image == "" {
			var err error
			o.PodProgram, err = podimage.Find(hostPath())
			errs = append(errs, err)
			continue
		}
		if err := p.checkImage(ctx, image); err != nil {
			i := slices.IndexFunc(plan.Pods, func(pod topology.Pod) bool { return pod.Image == image })
			errs = append(errs, fmt.Errorf("the image of pod %s: %w", plan.Pods[i].Name, err))
		}
	}
	return o, errors.Join(errs...)
}

// checkImage says why an image that the spec names cannot be had.
func (p *Provider) checkImage(ctx context.Context, image string) error {
	if path, ok := topology.ImageFile(image); ok {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := tar.NewReader(f).Next(); err != nil {
			return fmt.Errorf("%s is no archive of an image (%w): `docker save` and `ctr image export` make one", path, err)
		}
		return nil
	}
	if _, err := os.Stat(p.ImageStore.Address); err != nil {
		return fmt.Errorf("%s would be read from containerd at %s, and there is none (%w): name its socket with --containerd-address, or save the image and write file: and the archive's path", image, p.ImageStore.Address, err)
	}
	store, err := container.OpenStore(p.ImageStore.Address, p.ImageStore.Namespace)
	if err != nil {
		return err
	}
	return errors.Join(store.Check(ctx, image), store.Close())
}

// imageSource writes an image as an archive.
type imageSource func(ctx context.Context, w io.Writer) error

// openImages opens what the plan's images are read from, which the lab's mounts
// may hide.
func openImages(plan *topology.Plan, o ContainerOptions) (map[string]imageSource, error) {
	if plan.Runtime != topology.RuntimeContainerd {
		return nil, nil
	}
	sources := map[string]imageSource{}
	var store *container.Store
	for _, image := range images(plan) {
		path, isFile := topology.ImageFile(image)
		switch {
		case image == "":
			sources[image] = func(_ context.Context, w io.Writer) error { return podimage.Write(w, o.PodProgram) }
		case isFile:
			f, err := os.Open(path)
			if err != nil {
				return nil, fmt.Errorf("open an image: %w", err)
			}
			sources[image] = func(_ context.Context, w io.Writer) error {
				defer f.Close()
				_, err := io.Copy(w, f)
				return err
			}
		default:
			if store == nil {
				var err error
				if store, err = container.OpenStore(o.Store.Address, o.Store.Namespace); err != nil {
					return nil, err
				}
			}
			sources[image] = func(ctx context.Context, w io.Writer) error { return store.Export(ctx, image, w) }
		}
	}
	return sources, nil
}

// containers is a lab's container runtime, and what runs in it.
type containers struct {
	runtime *container.Runtime
	images  map[string]*container.Image
	byPod   map[string]*container.Container
}

// prepareContainers starts containerd and imports the images.
func (l *lab) prepareContainers(ctx context.Context, sources map[string]imageSource) error {
	r, err := l.startContainerd(ctx)
	if err != nil {
		return err
	}
	l.containers = containers{runtime: r, images: map[string]*container.Image{}, byPod: map[string]*container.Container{}}
	for name, source := range sources {
		i, err := importImage(ctx, r, source)
		if err != nil {
			if name == "" {
				name = podimage.Name
			}
			return fmt.Errorf("image %s: %w", name, err)
		}
		l.containers.images[name] = i
	}
	return nil
}

// importImage gives the lab's containerd what a source writes.
func importImage(ctx context.Context, r *container.Runtime, source imageSource) (*container.Image, error) {
	pr, pw := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := source(ctx, pw)
		written <- err
		_ = pw.CloseWithError(err) // never fails
	}()
	i, err := r.Import(ctx, pr)
	if err == nil {
		_, err = io.Copy(io.Discard, pr) // what stands after the archive's end
	}
	_ = pr.CloseWithError(io.ErrClosedPipe) // never fails
	if wrote := <-written; wrote != nil && !errors.Is(wrote, io.ErrClosedPipe) {
		return nil, wrote
	}
	return i, err
}

// startContainers starts all pods' containers, a few at a time.
func (l *lab) startContainers(ctx context.Context) (string, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		slots = make(chan struct{}, 2*runtime.NumCPU())
	)
	for i := range l.plan.Pods {
		pod := &l.plan.Pods[i]
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if ctx.Err() != nil {
				return
			}
			c, err := l.startContainer(ctx, pod)
			if err != nil {
				fail(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			l.containers.byPod[pod.Name] = c
		})
	}
	group.Wait()
	if err := context.Cause(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d started, %s", len(l.plan.Pods), l.containers.runtime.Describe(ctx)), nil
}

// startContainer starts one pod's container in the pod's namespaces.
func (l *lab) startContainer(ctx context.Context, pod *topology.Pod) (*container.Container, error) {
	files, err := makePodFiles(pod)
	if err != nil {
		return nil, err
	}
	c, err := l.containers.runtime.Start(ctx, l.containers.images[pod.Image], container.Pod{
		Name: pod.Name, ID: pod.ContainerID,
		Net: nsPath(pod.Name, "net"), UTS: nsPath(pod.Name, "uts"),
		Command: pod.Command,
		Env:     []string{"HOSTNAME=" + pod.Name, "OVERLAB_LAB=" + l.plan.Name},
		Files:   files,
		Log:     filepath.Join(logsFolder, "pod-"+pod.Name+".log"),
	})
	if err != nil {
		return nil, err
	}
	// The pod's other links, and the checks, keep to the node's files.
	if err := os.Symlink(fmt.Sprintf("/proc/%d/ns/mnt", c.Status().PID), nsPath(pod.Name, "root")); err != nil {
		return nil, fmt.Errorf("publish the files of pod %s: %w", pod.Name, err)
	}
	return c, nil
}

// makePodFiles makes the files that a kubelet puts into every container, and
// maps their paths there to where they are.
func makePodFiles(pod *topology.Pod) (map[string]string, error) {
	hosts := "127.0.0.1 localhost\n" + pod.Address.Addr().String() + " " + pod.Name + "\n"
	if pod.Address6.IsValid() {
		hosts += pod.Address6.Addr().String() + " " + pod.Name + "\n"
	}
	dir := filepath.Join(podFilesFolder, pod.Name)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the files of pod %s: %w", pod.Name, err)
	}
	files := map[string]string{}
	for name, text := range map[string]string{"hostname": pod.Name + "\n", "hosts": hosts} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("make the files of pod %s: %w", pod.Name, err)
		}
		files["/etc/"+name] = path
	}
	return files, nil
}

// containerStatus describes the containers now, in the plan's order.
func (l *lab) containerStatus() []topology.ContainerStatus {
	var all []topology.ContainerStatus
	for i := range l.plan.Pods {
		if c := l.containers.byPod[l.plan.Pods[i].Name]; c != nil {
			s := c.Status()
			s.Log = filepath.Join(l.opts.StateDir, logFolder, filepath.Base(s.Log))
			all = append(all, s)
		}
	}
	return all
}

// launchIn starts the process of a run request in a container, with the
// container's own environment, user and folder.
func (l *lab) launchIn(c *container.Container, req request, files []*os.File, session *syscall.SysProcAttr) (*child, error) {
	env := c.Environment()
	for _, e := range req.Env {
		if _, ok := cutEnv(e, "TERM"); ok {
			env = append(env, e)
		}
	}
	dir := req.Dir
	if dir == "" || dir == "/" {
		dir = c.Dir()
	}
	session.Credential = c.Credential()
	var started *child
	err := c.Do(func() error {
		var err error
		started, err = l.procs.start(req.Argv, env, dir, files, session)
		return err
	})
	return started, err
}
