# A model made smaller, step by step: calibrate, prune, distill, calibrate, quantize, tune, and a
# page of what each step cost and gained, held against the original.
#
#     make -f examples/smaller.mk MODEL=./model DATA=book.txt TEXT=other.txt PRUNE="--layers 24"
#     make -f examples/smaller.mk MODEL=./model DATA=book.txt TEXT=other.txt PRUNE="--to 6B" TYPE=q3_k_m
#     make -f examples/smaller.mk ... DISTILL="--hours 2 --lora 16" TUNE="--weights --hours 1"
#     make -f examples/smaller.mk ... report              one page with plots, answers and speed
#
# DATA is what is calibrated with and learnt from, TEXT what all is measured on: another text. An
# interrupted `make` goes on where it stopped, and a step whose options changed is made again with
# those behind it.

MODEL ?= ./model
DATA ?= notes.txt
TEXT ?= other.txt
TYPE ?= q4_k_m
PRUNE ?=
CALIBRATE ?= --tokens 65536
DISTILL ?= --hours 1
TUNE ?=
EVALUATE ?=
REPORT ?=
OUT ?= smaller

SOURCE := $(wildcard $(MODEL)/*.safetensors $(MODEL)/*.json)
# A directory appears complete, so any file in it stands for the whole.
PRUNED := $(OUT)/pruned/config.json
TAUGHT := $(OUT)/taught/config.json
FIRST := $(OUT)/model.calib.safetensors
SECOND := $(OUT)/taught.calib.safetensors
WHOLE := $(OUT)/model-$(TYPE).gguf
QUANTIZED := $(OUT)/taught-$(TYPE).gguf
TUNED := $(OUT)/tuned-$(TYPE).gguf
STEPS := $(WHOLE) $(OUT)/pruned $(OUT)/taught $(QUANTIZED) $(TUNED)

ifeq ($(strip $(PRUNE)),)
$(error say what to leave of the model: PRUNE="--layers 24" or PRUNE="--to 6B")
endif

# How long a step took goes beside what it made: $(call timed,NAME,COMMAND).
timed = begun=$$(date +%s) && $(2) && echo "$(1) $$(($$(date +%s) - begun))" > $(OUT)/.seconds-$(1)

.PHONY: all report clean FORCE
.DELETE_ON_ERROR:

all: $(OUT)/steps.md
	@cat $<

$(FIRST): $(SOURCE) $(wildcard $(DATA)) $(OUT)/.calibrate
	$(call timed,calibrate,qconvert calibrate $(MODEL) --data $(DATA) $(CALIBRATE) -o $@)

$(WHOLE): $(FIRST)
	$(call timed,quantize-model,qconvert quantize $(MODEL) -c $< -t $(TYPE) -o $@ --force)
	@touch $@

$(PRUNED): $(FIRST) $(OUT)/.prune
	$(call timed,prune,qconvert prune $(MODEL) -c $< $(PRUNE) -o $(@D) --force)
	@touch $@

$(TAUGHT): $(PRUNED) $(OUT)/.distill
	$(call timed,distill,qconvert distill $(OUT)/pruned --teacher $(MODEL) --data $(DATA) $(DISTILL) -o $(@D) --force)
	@touch $@

$(SECOND): $(TAUGHT)
	$(call timed,calibrate-again,qconvert calibrate $(OUT)/taught --data $(DATA) $(CALIBRATE) -o $@)

$(QUANTIZED): $(SECOND)
	$(call timed,quantize,qconvert quantize $(OUT)/taught -c $< -t $(TYPE) -o $@ --force)
	@touch $@

$(TUNED): $(SECOND) $(OUT)/.tune
	$(call timed,tune,qconvert tune $(OUT)/taught -c $< -t $(TYPE) $(TUNE) -o $@ --force)
	@touch $@

$(OUT)/steps.md: $(WHOLE) $(QUANTIZED) $(TUNED) $(wildcard $(TEXT)) $(OUT)/.evaluate
	rm -f $@.new
	qconvert evaluate $(STEPS) --reference $(MODEL) --data $(TEXT) $(EVALUATE) --summary $@.new
	@{ cat $@.new; printf '\n| step | seconds |\n|---|---:|\n'; \
	  for step in calibrate quantize-model prune distill calibrate-again quantize tune; do \
	    test ! -f $(OUT)/.seconds-$$step || sed 's/\(.*\) \(.*\)/| \1 | \2 |/' $(OUT)/.seconds-$$step; \
	  done; } > $@
	@rm $@.new

report: $(SECOND)
	qconvert report $(OUT)/taught --reference $(MODEL) -c $< --data $(TEXT) -t $(TYPE) $(REPORT) -o $(OUT)/report

# Options are written to files that change only when the options do.
$(OUT)/.calibrate: WORDS = $(MODEL) $(DATA) $(CALIBRATE)
$(OUT)/.prune: WORDS = $(PRUNE)
$(OUT)/.distill: WORDS = $(DATA) $(DISTILL)
$(OUT)/.tune: WORDS = $(TUNE)
$(OUT)/.evaluate: WORDS = $(TEXT) $(EVALUATE)
$(OUT)/.calibrate $(OUT)/.prune $(OUT)/.distill $(OUT)/.tune $(OUT)/.evaluate: FORCE | $(OUT)
	@echo '$(WORDS)' | cmp -s - $@ || echo '$(WORDS)' > $@

$(OUT):
	mkdir -p $@

clean:
	rm -rf $(FIRST) $(SECOND) $(STEPS) $(OUT)/steps.md $(OUT)/report $(OUT)/.seconds-*
