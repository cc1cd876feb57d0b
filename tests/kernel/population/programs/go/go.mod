module ksm-operator.dev/population

go 1.21
