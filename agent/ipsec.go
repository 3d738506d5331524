package agent

import (
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/agent/datapath"
)

// settleIPsec sees to it that the kernel can do what a scope asks of IPsec, or
// that nothing of it is left where the scope does not ask: policies of an
// earlier backend would take the packets from this one.
func settleIPsec(s datapath.Scope, log *slog.Logger) error {
	if !s.IPsec {
		return removeIPsec(log)
	}
	return explainESP(datapath.ProbeESP())
}

// explainESP says of a kernel that lacks what ipsec needs how to get it.
func explainESP(err error) error {
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w: this kernel encrypts no ESP packets with AES-GCM (CONFIG_XFRM_USER, CONFIG_INET_ESP, CONFIG_CRYPTO_GCM); "+
			"load the module with `modprobe esp4`, or choose another backend", err)
	}
	return err
}

// removeIPsec removes what an agent has left of IPsec.
func removeIPsec(log *slog.Logger) error {
	n, err := datapath.RemoveIPsec()
	if n > 0 {
		log.Info("removed", "IPsec states and policies", n)
	}
	if err != nil {
		return fmt.Errorf("remove IPsec states and policies: %w", err)
	}
	return nil
}
