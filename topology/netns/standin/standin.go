// Package standin answers, inside a lab, the few kubectl and docker commands
// that articles about overlays use, from the lab's plan: there is no API
// server and no container engine in a lab of network namespaces, but its pods
// have names, addresses and namespaces all the same. Whatever it cannot answer
// it refuses, and says what it is. Its etcdctl asks the lab's own etcd.
//
// It also stands in front of tcpdump, which on Debian and Ubuntu gives up root
// at its start and fails where the user namespace of a lab has no user to
// become.
package standin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/overlab/overlab/topology"
)

// labFolder is where every process of a lab finds the lab.
const labFolder = "/run/overlab"

// Names are the commands that the package stands in for.
func Names() []string { return []string{"docker", "etcdctl", "kubectl", "tcpdump"} }

// Handles reports whether a program that was called by the name argv0 ought
// to call Main.
func Handles(argv0 string) bool { return slices.Contains(Names(), filepath.Base(argv0)) }

// Main runs the command line of a process inside a lab, whose first element
// is the name that it was called by, and returns its exit code. It does not
// return where the command becomes another program, as kubectl exec does.
func Main(args []string) int {
	if filepath.Base(args[0]) == "tcpdump" {
		return fail(os.Stderr, "tcpdump", becomeTcpdump(args))
	}
	w, err := open()
	if err != nil {
		return fail(os.Stderr, filepath.Base(args[0]), err)
	}
	return w.Run(args)
}

// World is what a stand-in knows and where it answers.
type World struct {
	Plan *topology.Plan
	// Host is the node or pod that the command is called on.
	Host string
	// Age is how long the lab has been up.
	Age time.Duration
	// Ready reports whether a node's agent has written its subnet.env, which
	// is when a kubelet would call the node ready.
	Ready func(node string) bool
	// Enter makes the process another program, inside a pod. Stdin tells
	// whether the program reads the caller's standard input. It returns only
	// with an error.
	Enter func(pod *topology.Pod, argv []string, stdin bool) error
	// Store is the URL of the lab's etcd, as nodes reach it.
	Store       string
	Out, ErrOut io.Writer
}

// open finds the lab that the process is inside of.
func open() (*World, error) {
	path := filepath.Join(labFolder, "state", "plan.json")
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("this is overlab's stand-in, which works inside a lab only: %w", err)
	}
	w := &World{Plan: new(topology.Plan), Ready: ready, Enter: enter, Out: os.Stdout, ErrOut: os.Stderr}
	if err := json.Unmarshal(b, w.Plan); err != nil {
		return nil, fmt.Errorf("read the lab's plan %s: %w", path, err)
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the lab's age: %w", err)
	}
	w.Age = time.Since(st.ModTime())
	w.Store = w.store()
	if w.Host, err = os.Hostname(); err != nil {
		return nil, fmt.Errorf("read the host name: %w", err)
	}
	return w, nil
}

func ready(node string) bool {
	_, err := os.Stat(filepath.Join(labFolder, "nodes", node, "run/flannel/subnet.env"))
	return err == nil
}

// Run runs a kubectl or docker command line and returns its exit code.
func (w *World) Run(args []string) int {
	name := filepath.Base(args[0])
	var err error
	switch name {
	case "kubectl":
		err = w.kubectl(args[1:])
	case "docker":
		err = w.docker(args[1:])
	case "etcdctl":
		err = w.etcdctl(args[1:])
	default:
		err = fmt.Errorf("overlab stands in for %s, and not for this", strings.Join(Names(), ", "))
	}
	return fail(w.ErrOut, name, err)
}

// errExit is an error with an exit code of its own.
type errExit struct {
	error
	code int
}

func (e errExit) Unwrap() error { return e.error }

// fail prints an error, if there is one, and returns the exit code.
func fail(out io.Writer, name string, err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintf(out, "%s: %v\n", name, err)
	var exit errExit
	if errors.As(err, &exit) {
		return exit.code
	}
	return 1
}

// pod finds a pod by its name in the lab, or by one that a Deployment or a
// container engine would have made of it: ubuntu-1-f949f858-trrn9 is the pod
// ubuntu-1.
func (w *World) pod(name string) *topology.Pod {
	if p := w.Plan.Pod(name); p != nil {
		return p
	}
	var best *topology.Pod
	for i := range w.Plan.Pods {
		p := &w.Plan.Pods[i]
		if strings.HasPrefix(name, p.Name+"-") && (best == nil || len(p.Name) > len(best.Name)) {
			best = p
		}
	}
	return best
}

// names lists the lab's pods.
func (w *World) names() string {
	var all []string
	for _, p := range w.Plan.Pods {
		all = append(all, p.Name)
	}
	return strings.Join(all, ", ")
}
