package netns

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

// pluginExec runs CNI plugins for libcni, in the namespaces of the calling
// thread, as children that the supervisor's table knows.
type pluginExec struct {
	version.PluginDecoder
	procs     *processes
	node, lab string
	// log takes what the plugins print besides their answers.
	log *os.File
}

var _ invoke.Exec = (*pluginExec)(nil)

// newPluginExec opens the node's log of plugins, which the caller closes.
func newPluginExec(l *lab, node string) (*pluginExec, error) {
	log, err := os.OpenFile(filepath.Join(logsFolder, "cni-"+node+".log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of the CNI plugins: %w", err)
	}
	return &pluginExec{procs: l.procs, node: node, lab: l.plan.Name, log: log}, nil
}

// FindInPath implements invoke.Exec.
func (*pluginExec) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// ExecPlugin implements invoke.Exec. The error of a plugin that failed holds
// its name and what it said.
func (e *pluginExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	in, err := memory("stdin", stdin)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	out, err := memory("stdout", nil)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	before, err := e.log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("read the log of the CNI plugins: %w", err)
	}
	c, err := e.procs.start([]string{path}, environment(environ, e.node, e.lab), "/",
		[]*os.File{in, out, e.log}, &syscall.SysProcAttr{Setsid: true})
	if err != nil {
		return nil, err
	}
	var status syscall.WaitStatus
	select {
	case status = <-c.exited:
	case <-ctx.Done():
		_ = unix.Kill(-c.pid, unix.SIGKILL) // it may have ended just now
		<-c.exited
		return nil, fmt.Errorf("the plugin %s did not end: %w", filepath.Base(path), context.Cause(ctx))
	}
	answer, err := contents(out, 0)
	if err != nil {
		return nil, err
	}
	if exitCode(status) == 0 {
		return answer, nil
	}
	said, err := contents(e.log, before)
	if err != nil {
		return nil, err
	}
	return nil, pluginError(filepath.Base(path), describeExit(status), answer, said)
}

// memory is a file without a name that holds the bytes.
func memory(name string, b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.WriteAt(b, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("write a file in memory: %w", err)
	}
	return f, nil
}

// contents are what a file holds from an offset on.
func contents(f *os.File, from int64) ([]byte, error) {
	b, err := io.ReadAll(io.NewSectionReader(f, from, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read what the plugin printed: %w", err)
	}
	return b, nil
}

// pluginError is the error that a plugin printed (CNI specification, section 5,
// "Error"), or else what is known of its end. libcni reads codes of it.
func pluginError(plugin, how string, answer, said []byte) error {
	var e types.Error
	if err := json.Unmarshal(answer, &e); err != nil || e.Msg == "" {
		e = types.Error{Code: types.ErrInternal, Msg: how}
		if len(answer) > 0 {
			e.Details = fmt.Sprintf("it printed %q", answer)
		}
	}
	if len(said) > 0 {
		e.Details = strings.TrimSpace(fmt.Sprintf("%s (its log: %q)", e.Details, said))
	}
	return fmt.Errorf("the plugin %s: %w", plugin, &e)
}
