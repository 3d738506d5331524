package kubernetes

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Access says which cluster, as kubectl's flags of these names do.
type Access struct {
	// Kubeconfig is a file; empty takes the environment's KUBECONFIG, else
	// ~/.kube/config.
	Kubeconfig string
	// Context is one of its contexts; empty takes the current one.
	Context string
}

// client speaks with one cluster's API.
type client struct {
	*api
	context string
}

func (a Access) connect() (*client, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = a.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: a.Context})
	name := a.Context
	raw, err := loader.RawConfig()
	if err == nil && name == "" {
		name = raw.CurrentContext
	}
	if err == nil && name == "" {
		err = errors.New("no context is chosen: name a file with --kubeconfig or KUBECONFIG, and a context of it with --context")
	}
	var config *rest.Config
	if err == nil {
		config, err = loader.ClientConfig()
	}
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w", err)
	}
	made, err := newAPI(config)
	if err != nil {
		return nil, err
	}
	return &client{api: made, context: name}, nil
}

// Contexts are the names of the kubeconfig's contexts, none where it cannot be
// read.
func (a Access) Contexts() []string {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = a.Kubeconfig
	raw, err := rules.Load()
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(raw.Contexts))
}

// notOfLabels is what a lab's name cannot have in it.
var notOfLabels = regexp.MustCompile(`[^a-z0-9]+`)

// labName makes a lab's name of a context's.
func labName(context string) string {
	name := strings.Trim(notOfLabels.ReplaceAllString(strings.ToLower(context), "-"), "-")
	const most = 40
	if len(name) > most {
		name = strings.Trim(name[len(name)-most:], "-")
	}
	if name == "" {
		return "cluster"
	}
	return name
}
