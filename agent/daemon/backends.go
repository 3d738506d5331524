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
	"github.com/overlab/overlab/agent/backend/vxlan"
)

// backends are what a network's configuration may name: one folder under
// agent/backend, and one line here, for each.
func backends() map[string]backend.New {
	return map[string]backend.New{
		alloc.Name:     alloc.New,
		extension.Type: extension.New,
		hostgw.Type:    hostgw.New,
		ipip.Type:      ipip.New,
		ipsec.Type:     ipsec.New(ipsecMemory()),
		vxlan.Type:     vxlan.New,
	}
}

// ipsecMemory is where the ipsec backend keeps what it must not forget.
func ipsecMemory() string { return cmp.Or(os.Getenv(ipsec.MemoryFileEnv), ipsec.MemoryFile) }
