package daemon

import (
	"cmp"
	"os"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/backend/alloc"
	"github.com/overlab/overlab/agent/backend/extension"
	"github.com/overlab/overlab/agent/backend/hostgw"
	"github.com/overlab/overlab/agent/backend/ipip"
	"github.com/overlab/overlab/agent/backend/ipsec"
	"github.com/overlab/overlab/agent/backend/udp"
	"github.com/overlab/overlab/agent/backend/vxlan"
	"github.com/overlab/overlab/agent/backend/wireguard"
	"github.com/overlab/overlab/agent/forwarder"
	"github.com/overlab/overlab/agent/forwarder/relay"
)

// engines are what a forwarder may run: one line for each.
func engines() map[string]forwarder.NewEngine {
	return map[string]forwarder.NewEngine{
		relay.IPIPKind: relay.NewIPIP,
		relay.UDPKind:  relay.NewUDP,
		wireguard.Type: wireguard.NewEngine,
	}
}

// backends are what a network's configuration may name: one folder under
// agent/backend, and one line here, for each.
func backends(forwarders forwarder.Launcher, wireguardKey string, harden bool) map[string]backend.New {
	newVXLAN := vxlan.New
	if harden {
		newVXLAN = vxlan.NewHardened
	}
	return map[string]backend.New{
		alloc.Name:     alloc.New,
		extension.Type: extension.New,
		hostgw.Type:    hostgw.New,
		ipip.Type:      ipip.New(forwarders),
		ipsec.Type:     ipsec.New(ipsecMemory()),
		udp.Name:       udp.New(forwarders),
		vxlan.Type:     newVXLAN,
		wireguard.Type: wireguard.New(wireguard.Options{KeyFile: wireguardKey, Forwarders: forwarders}),
	}
}

// ipsecMemory is where the ipsec backend keeps what it must not forget.
func ipsecMemory() string { return cmp.Or(os.Getenv(ipsec.MemoryFileEnv), ipsec.MemoryFile) }
