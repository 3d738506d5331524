package topology

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// A Provider turns a Plan into a running lab. Nothing outside a provider's
// own package knows how: the command line and the harness see a Lab.
type Provider interface {
	// Name is the word that the spec's provider key uses.
	Name() string
	// Check says, before anything is built, what this machine lacks for the
	// plan; its error names each missing thing and its mend.
	Check(ctx context.Context, p *Plan) error
	// Up builds the plan and returns when every agent's mesh is complete. On
	// error, and when ctx ends, everything that was made is undone.
	Up(ctx context.Context, p *Plan, o UpOptions) (Lab, error)
	// Open joins a running lab; ErrNoLab if there is none of that name.
	Open(ctx context.Context, name string) (Lab, error)
	// List describes the labs that run. It clears what dead ones left behind.
	List(ctx context.Context) ([]Status, error)
	// Down ends a lab; ErrNoLab if there is none of that name.
	Down(ctx context.Context, name string) error
}

// ErrNoLab says that no lab of the asked name runs.
var ErrNoLab = errors.New("no such lab is running")

// ErrRunning says that a lab of the asked name runs already.
var ErrRunning = errors.New("is already running")

// StartError says that a program could not be started.
type StartError struct {
	// Code is what a shell exits with then (POSIX.1-2024, Shell Command
	// Language, 2.8.2): 127 if there is no such program, 126 if it is none.
	Code int
	// Reason says why.
	Reason string
}

func (e *StartError) Error() string { return e.Reason }

// UpOptions are what a caller may ask of Up.
type UpOptions struct {
	// Progress, when set, is told of each phase as it begins and ends.
	Progress func(Phase)
	// NodeImage is the image of the nodes, for a provider whose nodes have one;
	// empty leaves the choice to it.
	NodeImage string
}

// Phase is one step of building a lab.
type Phase struct {
	Name string `json:"name"`
	// Took is zero when the phase begins, and its duration when it has ended.
	Took time.Duration `json:"took"`
	// Detail says what was made, in a few words.
	Detail string `json:"detail,omitempty"`
}

// A Lab is a running topology.
type Lab interface {
	// Plan returns the plan that the lab was built from.
	Plan() *Plan
	// Status describes the lab now.
	Status(ctx context.Context) (Status, error)
	// Namespace returns the network namespace of a node, a pod or a router,
	// by the plan's names.
	Namespace(name string) (Namespace, error)
	// Close releases what the caller holds; the lab runs on.
	Close() error
}

// Namespace is the inside of a node or pod: all that the harness knows of it
// is that a process can run there.
type Namespace interface {
	// Name is the plan's name for it.
	Name() string
	// Run runs a process and waits for it. The exit code is meaningful when
	// the error is nil; a process ended by signal N has 128+N, as in a shell.
	Run(ctx context.Context, p Process) (exit int, err error)
}

// Local is what a Namespace also is when its kernel is this machine's and the
// caller may enter it: probes then run in-process.
type Local interface {
	// Do calls fn on an OS thread of its own inside the namespace, and throws
	// the thread away afterwards. Sockets that fn opens stay in the namespace.
	Do(fn func() error) error
	// Dial connects from inside the namespace; address holds a literal IP.
	Dial(ctx context.Context, network, address string) (net.Conn, error)
}

// Sheller is what a Namespace also is when it has an interactive shell of its
// own kind; its environment comes on top of the caller's.
type Sheller interface {
	Shell() Process
}

// Cluster is what a Lab also is when it is a Kubernetes cluster, whose API holds
// the leases.
type Cluster interface {
	// Kubectl runs kubectl as the cluster's administrator, and returns what it
	// printed. stdin may be nil.
	Kubectl(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error)
}

// Joiner is what a Lab also is when its namespaces are this machine's but the
// caller is outside: a process that is run by Join can open the lab again and
// finds its namespaces Local.
type Joiner interface {
	Join(ctx context.Context, p Process) (exit int, err error)
}

// Process is a command to run inside a Namespace.
type Process struct {
	Argv []string
	// Env is added to the namespace's own environment.
	Env []string
	// Dir is the working directory; empty keeps the lab's own.
	Dir string
	// Stdin, Stdout and Stderr are the process's streams; nil is /dev/null.
	// An *os.File is handed over as it is, anything else is copied.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// TTY asks for a terminal; Stdin must be an *os.File that is one.
	TTY bool
	// Signals, when set, are passed on to the process as they arrive.
	Signals <-chan os.Signal
}

// Status describes a running lab.
type Status struct {
	Name     string    `json:"name"`
	Provider string    `json:"provider"`
	Created  time.Time `json:"created"`
	// PID is the supervisor's process id on this machine, 0 where there is
	// no supervisor.
	PID    int           `json:"pid,omitempty"`
	State  string        `json:"state"`
	Nodes  int           `json:"nodes"`
	Pods   int           `json:"pods"`
	Phases []Phase       `json:"phases,omitempty"`
	Agents []AgentStatus `json:"agents,omitempty"`
	// Containers are those of the pods, in the plan's order, where they have any.
	Containers []ContainerStatus `json:"containers,omitempty"`
	// Dir is the state folder.
	Dir string `json:"dir,omitempty"`
	// Found says in words what was found of a cluster that was there before, and
	// by what.
	Found []string `json:"found,omitempty"`
}

// AgentStatus describes one node's agent.
type AgentStatus struct {
	Node    string    `json:"node"`
	Command []string  `json:"command"`
	PID     int       `json:"pid,omitempty"`
	Started time.Time `json:"started"`
	// State is "running"; "restarting" between an end and the next start; or
	// "ended", where Restart leaves it at that.
	State string `json:"state"`
	// Restart is the plan's policy.
	Restart RestartPolicy `json:"restart,omitempty"`
	// Restarts counts the times that it was started again.
	Restarts int `json:"restarts"`
	// LastExit says how it ended the last time, empty if it never did.
	LastExit string `json:"lastExit,omitempty"`
	// Exits are its last few ends, the newest last.
	Exits []AgentExit `json:"exits,omitempty"`
	// Log is the path of what it printed, Output the last lines of that.
	Log    string   `json:"log,omitempty"`
	Output []string `json:"output,omitempty"`
	// LogFormat is LogCRI where each line of the log has something before it.
	LogFormat string `json:"logFormat,omitempty"`
}

// LogCRI is how kubelet has containers' output written: before each line stand
// the time, the stream, and F, or P for a part of a line that goes on in the next
// (Kubernetes' design proposal "CRI: Log management for container stdout/stderr
// streams", pkg/kubelet/kuberuntime/logs).
const LogCRI = "cri"

// States of a container.
const (
	ContainerRunning = "running"
	ContainerEnded   = "ended"
	// ContainerUnknown is that of one whose runtime tells nothing any more.
	ContainerUnknown = "unknown"
)

// ContainerStatus describes one pod's container.
type ContainerStatus struct {
	Pod string `json:"pod"`
	// ID is the container's, 64 hex digits.
	ID string `json:"id"`
	// Image is the reference, Digest that of its manifest.
	Image  string `json:"image"`
	Digest string `json:"digest"`
	// PID is the program's process id inside the lab, 0 when it has ended.
	PID int `json:"pid,omitempty"`
	// State is ContainerRunning, ContainerEnded or ContainerUnknown. No container
	// is started again.
	State   string    `json:"state"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	// LastExit says how the program ended, empty as long as it runs.
	LastExit string `json:"lastExit,omitempty"`
	// Log is the path of what it printed.
	Log string `json:"log"`
}

// AgentExit is one end of an agent.
type AgentExit struct {
	Time time.Time `json:"time"`
	// Ran is how long the process had run, in nanoseconds.
	Ran time.Duration `json:"ran"`
	// How is "exit code N", "killed by signal N (NAME)", or why it could not be
	// started.
	How string `json:"how"`
}
