package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// api is a client for those groups of the API that are used here. Client-go's
// clientset would add every other to the program, and 20 ms to the start of each
// of its commands.
type api struct {
	config *rest.Config
	groups map[schema.GroupVersion]*rest.RESTClient
	codec  runtime.ParameterCodec
}

// resource is a kind of objects, by the path that the API has them at.
type resource struct {
	group schema.GroupVersion
	name  string
}

// The resources that are used.
func nodeResource() resource        { return resource{corev1.SchemeGroupVersion, "nodes"} }
func namespaceResource() resource   { return resource{corev1.SchemeGroupVersion, "namespaces"} }
func podResource() resource         { return resource{corev1.SchemeGroupVersion, "pods"} }
func configMapResource() resource   { return resource{corev1.SchemeGroupVersion, "configmaps"} }
func accountResource() resource     { return resource{corev1.SchemeGroupVersion, "serviceaccounts"} }
func daemonSetResource() resource   { return resource{appsv1.SchemeGroupVersion, "daemonsets"} }
func leaseResource() resource       { return resource{coordinationv1.SchemeGroupVersion, "leases"} }
func roleResource() resource        { return resource{rbacv1.SchemeGroupVersion, "roles"} }
func roleBindingResource() resource { return resource{rbacv1.SchemeGroupVersion, "rolebindings"} }

func newAPI(config *rest.Config) (*api, error) {
	scheme := runtime.NewScheme()
	a := &api{config: config, groups: map[schema.GroupVersion]*rest.RESTClient{}, codec: runtime.NewParameterCodec(scheme)}
	for _, g := range []struct {
		version schema.GroupVersion
		add     func(*runtime.Scheme) error
	}{
		{corev1.SchemeGroupVersion, corev1.AddToScheme},
		{appsv1.SchemeGroupVersion, appsv1.AddToScheme},
		{coordinationv1.SchemeGroupVersion, coordinationv1.AddToScheme},
		{rbacv1.SchemeGroupVersion, rbacv1.AddToScheme},
	} {
		if err := g.add(scheme); err != nil {
			return nil, fmt.Errorf("register the types of %s: %w", g.version, err)
		}
		c := rest.CopyConfig(config)
		c.GroupVersion, c.APIPath = &g.version, "/apis"
		if g.version.Group == "" {
			c.APIPath = "/api"
		}
		c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
		c.UserAgent, c.WarningHandler = "overlab", rest.NoWarnings{}
		// A suite opens dozens of streams at once.
		c.QPS, c.Burst = 50, 200
		client, err := rest.RESTClientFor(c)
		if err != nil {
			return nil, fmt.Errorf("prepare the client of the Kubernetes API at %s: %w", c.Host, err)
		}
		a.groups[g.version] = client
	}
	return a, nil
}

// get reads one object; namespace is empty for one that is in none.
func (a *api) get(ctx context.Context, r resource, namespace, name string, into runtime.Object) error {
	return a.groups[r.group].Get().NamespaceIfScoped(namespace, namespace != "").Resource(r.name).Name(name).Do(ctx).Into(into)
}

// list reads the objects of a namespace, or of all, that have the label; an
// empty label is any.
func (a *api) list(ctx context.Context, r resource, namespace, label string, into runtime.Object) error {
	return a.groups[r.group].Get().NamespaceIfScoped(namespace, namespace != "").Resource(r.name).
		VersionedParams(&metav1.ListOptions{LabelSelector: label}, a.codec).Do(ctx).Into(into)
}

// create makes an object, and fills it with what the API has made of it.
func (a *api) create(ctx context.Context, r resource, namespace string, o runtime.Object) error {
	return a.groups[r.group].Post().NamespaceIfScoped(namespace, namespace != "").Resource(r.name).Body(o).Do(ctx).Into(o)
}

// update replaces an object.
func (a *api) update(ctx context.Context, r resource, namespace, name string, o runtime.Object) error {
	return a.groups[r.group].Put().NamespaceIfScoped(namespace, namespace != "").Resource(r.name).Name(name).Body(o).Do(ctx).Into(o)
}

// remove deletes an object.
func (a *api) remove(ctx context.Context, r resource, namespace, name string) error {
	return a.groups[r.group].Delete().NamespaceIfScoped(namespace, namespace != "").Resource(r.name).Name(name).
		Body(&metav1.DeleteOptions{}).Do(ctx).Error()
}

// removeAll deletes all objects of a namespace; what they own goes later.
func (a *api) removeAll(ctx context.Context, r resource, namespace string) error {
	orphan := metav1.DeletePropagationOrphan
	return a.groups[r.group].Delete().Namespace(namespace).Resource(r.name).
		Body(&metav1.DeleteOptions{PropagationPolicy: &orphan}).Do(ctx).Error()
}

// version is the server's, as v1.33.1.
func (a *api) version(ctx context.Context) (string, error) {
	b, err := a.groups[corev1.SchemeGroupVersion].Get().AbsPath("/version").Do(ctx).Raw()
	var v struct{ GitVersion string }
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	return v.GitVersion, err
}

// execution is where a process in a container is asked for.
func (a *api) execution(namespace, pod string, o *corev1.PodExecOptions) *url.URL {
	return a.groups[corev1.SchemeGroupVersion].Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(o, a.codec).URL()
}
