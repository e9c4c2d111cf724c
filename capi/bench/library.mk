# Where libmempool is: in $(capi)/build, if `make` in capi put it there, or else where cargo does.
# `capi` is the path to capi/; set it before including this.
#
#   static_library, shared_library   the files
#   static_needs                     what the static one needs of the system

CARGO ?= cargo
.DEFAULT_GOAL := all

ifneq ($(wildcard $(capi)/build/libmempool.a),)
library_directory := $(abspath $(capi)/build)
else
export CARGO_TARGET_DIR ?= $(abspath $(capi)/../target)
library_directory := $(CARGO_TARGET_DIR)/release
$(library_directory)/libmempool.%: FORCE
	cd $(capi) && $(CARGO) build --release -p libmempool-capi
endif

static_library := $(library_directory)/libmempool.a
shared_library := $(library_directory)/libmempool.so
static_needs := -static-libgcc -lpthread -ldl -lm

FORCE:
