package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/topology"
)

// The control socket speaks JSON, one message a packet (SOCK_SEQPACKET). A
// connection carries one request and what follows from it.

// Operations of a request.
const (
	opStatus = "status"
	// opContainers asks for the status of some containers, from the From-th on.
	// The client asks until there are no more.
	opContainers = "containers"
	opRun        = "run"
	opRestart    = "restart-agent"
	// opHold ends an agent, or the store where no node is named. It answers
	// when that has ended, and starts it again when the client sends anything,
	// or goes away; the client's second answer says how that went.
	opHold = "hold"
	// opEnd ends an agent or the store as opHold does, and opStart starts it
	// again, whoever asks.
	opEnd   = "end"
	opStart = "start"
)

// request is a client's first message. A run request carries the three
// standard streams as descriptors.
type request struct {
	Op string `json:"op"`
	// Space is the namespace to run in; empty for the lab's own.
	Space string   `json:"space,omitempty"`
	Argv  []string `json:"argv,omitempty"`
	Env   []string `json:"env,omitempty"`
	Dir   string   `json:"dir,omitempty"`
	// TTY says that the streams are a terminal that becomes the process's
	// controlling one.
	TTY bool `json:"tty,omitempty"`
	// Node is the node whose agent is meant.
	Node string `json:"node,omitempty"`
	// From is how many containers the client knows of already.
	From int `json:"from,omitempty"`
}

// signalMessage is what a client sends while its process runs.
type signalMessage struct {
	Signal int `json:"signal"`
}

// response is the supervisor's only message, but for run, whose end it tells.
type response struct {
	Error string `json:"error,omitempty"`
	// Unstarted is the code of an error that is a StartError.
	Unstarted int              `json:"unstarted,omitempty"`
	Exit      int              `json:"exit"`
	Status    *topology.Status `json:"status,omitempty"`
	// Containers are some, at most containersPerMessage.
	Containers []topology.ContainerStatus `json:"containers,omitempty"`
}

// maxMessage bounds a packet: the status of a lab of 256 nodes is 80 KiB.
const maxMessage = 192 << 10

// containersPerMessage are less than 64 KiB with the longest of names.
const containersPerMessage = 40

// peer is one end of a control connection.
type peer struct {
	conn *net.UnixConn
	buf  []byte
}

func newPeer(conn *net.UnixConn) *peer { return &peer{conn: conn, buf: make([]byte, maxMessage)} }

// send sends one message, with descriptors.
func (p *peer) send(v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode control message: %w", err)
	}
	if len(b) > maxMessage {
		return fmt.Errorf("control message of %d bytes is too long (at most %d)", len(b), maxMessage)
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := p.conn.WriteMsgUnix(b, oob, nil); err != nil {
		return fmt.Errorf("send control message: %w", err)
	}
	return nil
}

// receive reads one message, and the descriptors that came with it.
func (p *peer) receive(v any) ([]*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(3*4))
	n, oobn, _, _, err := p.conn.ReadMsgUnix(p.buf, oob)
	if errors.Is(err, io.EOF) {
		return nil, errHungUp
	}
	if err != nil {
		return nil, fmt.Errorf("read control message: %w", err)
	}
	files, err := receivedFiles(oob[:oobn])
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(p.buf[:n], v); err != nil {
		closeAll(files)
		return nil, fmt.Errorf("decode control message: %w", err)
	}
	return files, nil
}

// errHungUp says that the other end is gone.
var errHungUp = errors.New("the other end closed the control connection")

func receivedFiles(oob []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("decode descriptors: %w", err)
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // credentials or the like
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "stream"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// inFolder calls fn with a short path to a name in dir: the path of a socket
// holds 107 bytes, and a runtime folder may be longer.
func inFolder(dir, name string, fn func(path string) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd)
	return fn(fmt.Sprintf("/proc/self/fd/%d/%s", fd, name))
}

// listen opens the control socket, readable by its owner only.
func listen(dir string) (*net.UnixListener, error) {
	var l *net.UnixListener
	err := inFolder(dir, socketFile, func(path string) error {
		var err error
		l, err = net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
		if err != nil {
			return fmt.Errorf("open the control socket: %w", err)
		}
		l.SetUnlinkOnClose(false)
		return os.Chmod(path, 0o600)
	})
	return l, err
}

// dial connects to a lab's control socket.
func dial(dir string) (*peer, error) {
	var conn *net.UnixConn
	err := inFolder(dir, socketFile, func(path string) error {
		var err error
		conn, err = net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect to the lab: %w", err)
	}
	return newPeer(conn), nil
}

// credentials returns the process id and user of the other end, in the
// caller's own namespaces.
func (p *peer) credentials() (*unix.Ucred, error) {
	raw, err := p.conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	if credErr != nil {
		return nil, fmt.Errorf("read the control connection's credentials: %w", credErr)
	}
	return cred, nil
}
