// Package tuntap makes persistent TUN devices and attaches to them. A
// persistent device is state of the kernel like any other link: it, its address
// and its routes stay when the process that moves its packets ends.
//
// Everything is about the calling thread's network namespace: a descriptor of
// the TUN driver belongs to the one in which it was opened.
package tuntap

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Path is the TUN driver's file.
const Path = "/dev/net/tun"

// ErrBusy says that another process is attached to the device.
var ErrBusy = errors.New("another process is attached to it")

// ErrNoDevice says that there is no persistent device of that name.
var ErrNoDevice = errors.New("there is no such device")

// Usable says why this process cannot use the TUN driver, with the mend, and
// nil where it can.
func Usable() error {
	fd, err := open()
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// Create makes a persistent TUN device without packet information, as
// "ip tuntap add mode tun" does. It is down. One that is there, and that no
// process is attached to, is made persistent.
func Create(name string) error {
	// A child that is forked meanwhile would be attached until it is executed,
	// and nobody else could attach.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := attach(name, unix.IFF_TUN|unix.IFF_NO_PI)
	if err != nil {
		return fmt.Errorf("make TUN device %s: %w", name, err)
	}
	defer unix.Close(fd) // the device stays, or goes with a failure
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("make TUN device %s persistent: %w", name, err)
	}
	return nil
}

// Attach attaches to a persistent TUN device: what its descriptor reads and
// writes are IP packets behind a virtio_net_hdr of 10 bytes (linux/virtio_net.h),
// so that many segments can be one packet. The error is ErrNoDevice or ErrBusy
// where a later try may succeed.
func Attach(name string) (fd int, err error) {
	// The driver would make a missing device.
	if _, err := net.InterfaceByName(name); err != nil {
		return -1, fmt.Errorf("attach to TUN device %s: %w", name, ErrNoDevice)
	}
	const flags = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR
	fd, err = attach(name, flags)
	if err != nil {
		return -1, fmt.Errorf("attach to TUN device %s: %w", name, err)
	}
	if err := persistent(fd, name); err != nil {
		return -1, errors.Join(fmt.Errorf("attach to TUN device %s: %w", name, err), unix.Close(fd))
	}
	return fd, nil
}

// persistent tells the device that was there from one that the driver made
// because the other had just gone.
func persistent(fd int, name string) error {
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr)
	}
	if err == nil && ifr.Uint16()&iffPersist == 0 {
		err = ErrNoDevice
	}
	return err
}

// iffPersist is IFF_PERSIST of linux/if_tun.h, which TUNGETIFF adds.
const iffPersist = 0x0800

func attach(name string, flags uint16) (fd int, err error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return -1, err
	}
	fd, err = open()
	if err != nil {
		return -1, err
	}
	ifr.SetUint16(flags)
	err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	if errors.Is(err, unix.EBUSY) {
		err = ErrBusy
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// open opens the driver. Its error names the mend.
func open() (fd int, err error) {
	fd, err = unix.Open(Path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case err == nil:
		return fd, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return -1, fmt.Errorf("open %s: %w; load the driver with `sudo modprobe tun`, or use a kernel built with CONFIG_TUN (in a container: --device %s)", Path, err, Path)
	case errors.Is(err, fs.ErrPermission):
		return -1, fmt.Errorf("open %s: %w; let every user open it with `sudo chmod 666 %s`, as most distributions do, or run as root", Path, err, Path)
	}
	return -1, fmt.Errorf("open %s: %w", Path, err)
}
