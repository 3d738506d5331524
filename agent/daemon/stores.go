package daemon

import (
	"log/slog"

	"github.com/overlab/overlab/agent/lease"
	"github.com/overlab/overlab/agent/lease/etcd"
	"github.com/overlab/overlab/agent/lease/kube"
)

// openStore opens the store that the flags ask for.
func openStore(s *settings, log *slog.Logger) (lease.Store, error) {
	if s.kube {
		return kube.Open(kube.Config{
			APIURL: s.kubeURL, Kubeconfig: s.kubeconfig, AnnotationPrefix: s.annotationPrefix,
			NodeName: s.nodeName, PodName: s.podName, PodNamespace: s.podNamespace,
			NetConfPath: s.netConfPath, AnnounceNetwork: s.announceNetwork, Log: log,
		})
	}
	return etcd.Open(etcd.Config{
		Endpoints: s.endpointList(), Prefix: s.prefix, CAFile: s.caFile, CertFile: s.certFile, KeyFile: s.keyFile,
		Username: s.username, Password: s.password, Log: log,
	})
}
