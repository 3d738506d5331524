package kubernetes

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/overlab/overlab/topology"
)

// What a session's parts are called and labelled. All are in the session's own
// namespace, so that they go with it.
const (
	// namespacePrefix begins the name of a session's namespace; a random end
	// follows.
	namespacePrefix = "overlab-probe-"
	// sessionLabel is on the namespace; its value says what the session is for.
	sessionLabel = "overlab.dev/session"
	// ownerAnnotation says who began the session, and from where.
	ownerAnnotation = "overlab.dev/owner"
	// partLabel is on pods: partNode, or the name that the plan has for the pod.
	partLabel = "overlab.dev/probe"
	partNode  = "node"

	sessionName = "session"
	container   = "probe"
)

// The values of sessionLabel.
const (
	// forCommand is a session that ends with its command.
	forCommand = "command"
	// kept is one that outlives commands, of `overlab up`.
	kept = "kept"
)

// objects are the parts of a session, without its namespace.
type objects struct {
	namespace, image string
	network          *Network
	// disruptive lets probes write where flannel's subnet.env is.
	disruptive bool
}

func (o *objects) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: o.namespace}
}

func namespaceObject(purpose, owner string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: namespacePrefix,
		// The host's network and NET_ADMIN are beyond what the baseline level of
		// Pod Security lets pass.
		Labels:      map[string]string{sessionLabel: purpose, "pod-security.kubernetes.io/enforce": "privileged"},
		Annotations: map[string]string{ownerAnnotation: owner},
	}}
}

// lease is what says that the session is wanted.
func (o *objects) lease(holder string, seconds int32) *coordinationv1.Lease {
	now := metav1.NowMicro()
	return &coordinationv1.Lease{ObjectMeta: o.meta(sessionName), Spec: coordinationv1.LeaseSpec{
		HolderIdentity: &holder, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now,
	}}
}

// The account of the probes on nodes may read the session's lease and delete the
// session's namespace, which counts as being in itself.
func (o *objects) account() (*corev1.ServiceAccount, *rbacv1.Role, *rbacv1.RoleBinding) {
	role := &rbacv1.Role{ObjectMeta: o.meta(sessionName), Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, ResourceNames: []string{sessionName}, Verbs: []string{"get"}},
		{APIGroups: []string{""}, Resources: []string{"namespaces"}, ResourceNames: []string{o.namespace}, Verbs: []string{"delete"}},
	}}
	return &corev1.ServiceAccount{ObjectMeta: o.meta(sessionName)}, role, &rbacv1.RoleBinding{
		ObjectMeta: o.meta(sessionName),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: sessionName},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: sessionName, Namespace: o.namespace}},
	}
}

// probes is the DaemonSet whose pods are in the nodes' network namespaces, and
// keep watch over the session.
func (o *objects) probes() *appsv1.DaemonSet {
	labels := map[string]string{partLabel: partNode}
	c := o.container("--lease="+sessionName, "--namespace="+o.namespace)
	spec := o.pod(c)
	spec.HostNetwork = true
	spec.ServiceAccountName = sessionName
	spec.NodeSelector = map[string]string{corev1.LabelOSStable: "linux"}
	for _, folder := range o.network.Folders {
		name := strings.Trim(notOfLabels.ReplaceAllString(folder, "-"), "-")
		directory := corev1.HostPathDirectory // which the plugin has made: none is made for us
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: folder, Type: &directory},
		}})
		mounts := &spec.Containers[0].VolumeMounts
		*mounts = append(*mounts, corev1.VolumeMount{Name: name, MountPath: folder, ReadOnly: !o.disruptive || folder != subnetFolder})
	}
	return &appsv1.DaemonSet{ObjectMeta: o.meta(sessionName), Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
	}}
}

// testPod is one of the plan's pods.
func (o *objects) testPod(p *topology.Pod) *corev1.Pod {
	spec := o.pod(o.container())
	spec.NodeName = p.Node
	none := false
	spec.AutomountServiceAccountToken, spec.EnableServiceLinks = &none, &none
	meta := o.meta(p.Name)
	meta.Labels = map[string]string{partLabel: p.Name}
	return &corev1.Pod{ObjectMeta: meta, Spec: spec}
}

// pod is what pods of both kinds have in common: they run on any node, whatever
// it is tainted with, and do not linger.
func (o *objects) pod(c corev1.Container) corev1.PodSpec {
	second := int64(1)
	return corev1.PodSpec{
		Containers:                    []corev1.Container{c},
		Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		TerminationGracePeriodSeconds: &second,
		SecurityContext:               &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
	}
}

// container waits until somebody runs a probe in it. Of the capabilities that
// containers get it keeps none but these: NET_RAW for raw and packet sockets,
// NET_ADMIN for the nftables' rules and marked packets, and for what
// --disruptive changes.
func (o *objects) container(args ...string) corev1.Container {
	root, no, yes := int64(0), false, true
	return corev1.Container{
		Name: container, Image: o.image, ImagePullPolicy: corev1.PullIfNotPresent,
		Command: append([]string{"overlab", "keeper"}, args...),
		SecurityContext: &corev1.SecurityContext{
			RunAsUser: &root, AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_ADMIN", "NET_RAW"}},
		},
	}
}
