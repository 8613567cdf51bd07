# A persistent worker in shell: the task's payload is a decimal number.
while read -r line; do
    number=$(printf '%s' "$line" | sed 's/.*"payload":"\([0-9]*\)".*/\1/')
    printf '{"result":"0x%x"}\n' "$number"
done
