// Hyperkube is every part of a Kubernetes control plane that the lab runs, in one program: the first argument says which.
//
// The parts are the real ones, with their own flags: what is tested against them is tested against Kubernetes. One program
// is linked once, and the parts share most of their code.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// Each part keeps flags and feature gates in globals of this process, so only the one that runs is made.
var parts = map[string]func(arguments []string) int{
	"etcd": func(arguments []string) int {
		etcdmain.Main(append([]string{"etcd"}, arguments...))
		return 0
	},
	"kube-apiserver":          component(func() *cobra.Command { return apiserver.NewAPIServerCommand() }),
	"kube-controller-manager": component(controllermanager.NewControllerManagerCommand),
	"kube-scheduler":          component(func() *cobra.Command { return scheduler.NewSchedulerCommand() }),
	"kubectl":                 component(kubectl.NewDefaultKubectlCommand),
}

func component(command func() *cobra.Command) func([]string) int {
	return func(arguments []string) int {
		part := command()
		part.SetArgs(arguments)
		return cli.Run(part)
	}
}

func main() {
	if len(os.Args) > 1 {
		if run, found := parts[os.Args[1]]; found {
			// Errors and usage name the part, and kubectl looks for its plugins by the program's arguments.
			name, arguments := os.Args[1], os.Args[2:]
			os.Args = append([]string{name}, arguments...)
			os.Exit(run(arguments))
		}
	}
	names := make([]string, 0, len(parts))
	for name := range parts {
		names = append(names, name)
	}
	slices.Sort(names)
	fmt.Fprintf(os.Stderr, "usage: %s PART [ARGUMENT...]\nparts: %s\n", os.Args[0], strings.Join(names, ", "))
	os.Exit(2)
}
