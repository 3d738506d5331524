package cni

import (
	"errors"
	"fmt"
	"os"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/rtnl"
)

// kernel reads and writes the links, addresses and routes of one network
// namespace: that of the thread which opened it.
type kernel struct {
	read  netlinksafe.Handle
	write *rtnl.Conn
}

func openKernel() (*kernel, error) {
	read, err := netlinksafe.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	write, err := rtnl.Dial()
	if err != nil {
		read.Close()
		return nil, err
	}
	return &kernel{read, write}, nil
}

func (k *kernel) close() {
	k.read.Close()
	_ = k.write.Close() // nothing is buffered
}

// link returns a link by name, nil where there is none.
func (k *kernel) link(name string) (netlink.Link, error) {
	l, err := k.read.LinkByName(name)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read link %s: %w", name, err)
	}
	return l, nil
}

// delete deletes a link, which may be gone already.
func (k *kernel) delete(index int) error {
	var b rtnl.Batch
	b.DelLink(index)
	b.Tolerate(unix.ENODEV)
	return k.write.Do(&b)
}

// setIPv6 sets an IPv6 sysctl of a link in the calling thread's namespace. A
// kernel without IPv6 has none.
func setIPv6(link, key, value string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+link+"/"+key, []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// errNotNamespace says that a path is no network namespace, as what is left
// of a bind mount after a restart of the machine.
var errNotNamespace = errors.New("not a network namespace")

// openPod pins a pod's network namespace. The error is os.ErrNotExist or
// errNotNamespace where the pod's is gone.
func openPod(path string) (*netns.Set, error) {
	ns, err := netns.Open(path, "", "")
	if err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	var pod, own unix.Stat_t
	err = errors.Join(
		unix.Fstatfs(ns.Net, &fs),
		unix.Fstat(ns.Net, &pod),
		unix.Stat("/proc/thread-self/ns/net", &own))
	switch {
	case err != nil:
	case fs.Type != unix.NSFS_MAGIC:
		err = errNotNamespace
	case pod.Dev == own.Dev && pod.Ino == own.Ino:
		err = errors.New("this is the node's own network namespace")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open namespace %s: %w", path, err), ns.Close())
	}
	return ns, nil
}

// gone tells whether openPod failed because the pod's namespace is no more.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, errNotNamespace)
}
