package wireguard

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/overlab/overlab/agent/forwarder"
)

// engine is a WireGuard device in userspace. It is configured as every such
// device is, by the protocol of wg(8) on a socket in /var/run/wireguard, so that
// `wg show` works on it.
type engine struct {
	device  *device.Device
	control net.Listener
	closed  sync.Once
}

// NewEngine makes the forwarder's part: a device without a key and without
// peers. It has no options.
func NewEngine(fd int, _ json.RawMessage, log *slog.Logger) (forwarder.Engine, error) {
	device, err := newDevice(fd, log)
	if err != nil {
		return nil, err
	}
	control, err := listen(Device)
	if err != nil {
		device.Close()
		return nil, fmt.Errorf("listen for the configuration of %s: %w", Device, err)
	}
	return &engine{device: device, control: control}, nil
}

// newDevice attaches the protocol to the TUN device of the descriptor, as it is,
// and owns it from then on. The library does not watch the link:
// its listener ends the device when the kernel has more to tell of the node's
// links than fits its buffer, as where a hundred pods come at once; and the
// agent watches it.
func newDevice(fd int, log *slog.Logger) (*device.Device, error) {
	packets, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return nil, fmt.Errorf("take over %s: %w", Device, err)
	}
	return device.NewDevice(packets, conn.NewDefaultBind(), &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf:   func(format string, a ...any) { log.Error(fmt.Sprintf(format, a...)) },
	}), nil
}

// listen opens the socket of wg(8), in the place of one that a killed forwarder
// left.
func listen(name string) (net.Listener, error) {
	// Only root may configure the device, whoever may enter the folder.
	file, err := ipc.UAPIOpen(name)
	if err != nil {
		return nil, err
	}
	defer file.Close() // the listener has its own
	return ipc.UAPIListen(name, file)
}

// Update implements forwarder.Engine; the agent tells of the peers by the
// socket of wg(8).
func (*engine) Update(json.RawMessage) error { return nil }

// Run implements forwarder.Engine.
func (e *engine) Run() error {
	if err := e.device.Up(); err != nil {
		return fmt.Errorf("bring %s up: %w", Device, err)
	}
	refused := make(chan error, 1)
	go func() {
		for {
			c, err := e.control.Accept()
			if err != nil {
				refused <- err
				return
			}
			go e.device.IpcHandle(c)
		}
	}()
	select {
	case <-e.device.Wait():
		return nil // Close was called, or the TUN device is gone
	case err := <-refused:
		return fmt.Errorf("the socket for the configuration of %s is gone: %w", Device, err)
	}
}

// Close implements forwarder.Engine.
func (e *engine) Close() error {
	e.closed.Do(func() {
		_ = e.control.Close() // its file goes with it, or is gone
		e.device.Close()
	})
	return nil
}
